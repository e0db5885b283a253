"""`python -m yolov7_jax` is `yolov7-jax`."""

from yolov7_jax.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
