"""`python -m train VERB ...` in a checkout is `yolov7-jax VERB ...`."""

from yolov7_jax.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
