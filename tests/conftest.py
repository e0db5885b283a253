"""Eight simulated CPU devices for the whole suite, and property tests that repeat exactly."""

import os

import hypothesis

DEVICES_FLAG = "--xla_force_host_platform_device_count"

# JAX reads this when it is first used; a number that the user chose stays.
if DEVICES_FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES_FLAG}=8".strip()

hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, max_examples=20
)
hypothesis.settings.load_profile("repeatable")
