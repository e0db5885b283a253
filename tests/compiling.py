"""How tests compile: quickly, as they wait longer for the compiler than for what it makes."""

from importlib import metadata

# In half the time or less; the numbers differ by rounding.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
# Options of one `jax.jit`, for numbers that have to be those of a user's program, in which fused
# multiply-adds may place an object in another cell.
AS_USERS_DO = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
if metadata.version("jax").startswith("0.10."):  # later ones have no choice
    _QUICK["xla_cpu_use_fusion_emitters"] = False
    AS_USERS_DO["xla_cpu_use_fusion_emitters"] = True

QUICK_FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in _QUICK.items())
