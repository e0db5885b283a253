"""What tells whether a run that continues has the data that it was started with."""

from collections.abc import Mapping

from yolov7_jax.data.dataset import Dataset

COVERED = "names of classes and images, sizes, or labels"


def fingerprints(splits: Mapping[str, Dataset]) -> str:
    """Returns a line for each split, with the hash of its `Dataset.fingerprint` and its name.

    That covers the names of classes and image files, their order, the images' sizes and all
    labels. It covers neither the folders, so that a copy of the data set is as good, nor the
    pixels: reading them all would take as long as an epoch, and the sizes and times of files,
    which are at hand, change in copies and in lossless repacking.

    Args:
      splits: data sets by the names of their splits.
    """
    return "".join(f"{dataset.fingerprint()}  {split}\n" for split, dataset in splits.items())


def changed_splits(splits: Mapping[str, Dataset], saved: str) -> list[str]:
    """Returns the names of the splits that are not those of a saved text.

    Args:
      splits: as for `fingerprints`.
      saved: what `fingerprints` has returned; what is no such text has none of the splits.
    """
    known = saved.splitlines()
    lines = zip(splits, fingerprints(splits).splitlines(), strict=True)
    return [split for split, line in lines if line not in known]
