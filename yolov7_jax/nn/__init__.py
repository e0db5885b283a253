"""The networks, as Flax NNX modules over NHWC feature maps."""
