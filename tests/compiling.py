"""How tests compile: quickly, as they wait longer for the compiler than for what it makes."""

# Half the time or less; the numbers differ by rounding.
QUICK_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false"
)
# Options of one `jax.jit`, for numbers that have to be those of a user's program, in which fused
# multiply-adds may place an object in another cell.
AS_USERS_DO = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
}
