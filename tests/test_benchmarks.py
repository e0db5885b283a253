import jax
import pytest
from cases import P5, match_list, random_case

from benchmarks import straightforward
from yolov7_jax import LossConfig, assign_ota, pad_targets


@pytest.mark.parametrize("restricted", [False, True])
def test_the_straightforward_assigner_finds_the_matches_of_the_fast_one(restricted):
    config = LossConfig(restrict_to_own_candidates=restricted)
    case = random_case(3, P5, config, coarsest=(4, 6), counts=(60, 7))
    targets = pad_targets(case.rows, case.batch, 64)
    clear = jax.jit(lambda lead: straightforward.assign_ota(lead, targets, P5, config))
    fast = jax.jit(lambda lead: assign_ota(lead, targets, P5, config))
    expected, found = match_list(clear(case.outputs.lead)), match_list(fast(case.outputs.lead))
    assert len(found) > 60
    assert sorted(found) == sorted(expected)
