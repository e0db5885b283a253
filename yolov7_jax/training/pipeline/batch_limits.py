"""Numbers that callers give, against those that can be worked with."""

from yolov7_jax.errors import UserError


def check_batch_size(
    batch_size: int, num_images: int, num_devices: int, num_hosts: int = 1
) -> None:
    """Refuses batches that devices cannot share evenly, or that are longer than an epoch.

    Args:
      batch_size: samples a step, over all hosts.
      num_images: images in the training split.
      num_devices: over all hosts, which have equally many.
      num_hosts: how many those are.

    Raises:
      UserError: says all that is wrong, and what would do.
    """
    faults = []
    if batch_size % num_devices:
        where = f" on {num_hosts} hosts" if num_hosts > 1 else ""
        faults.append(f"a multiple of {num_devices}, the number of devices{where}")
    if batch_size > num_images:
        faults.append(f"at most {num_images}, the number of training images")
    if not faults:
        return
    most = min(max(batch_size, num_devices), num_images) // num_devices * num_devices
    hint = f"{most} would do" if most else "there are fewer images than devices"
    raise UserError(f"--batch-size (={batch_size}) must be {' and '.join(faults)}; {hint}")
