"""The three losses against loops over rows, finite differences, and the rules their gradients obey."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from troupe.algorithm.distributions import Categorical
from troupe.algorithm.losses import Batch, Outputs, a3c, appo, impala

seeds, lengths = st.integers(0, 2**32), st.integers(1, 10)

# Settings that differ from one another wherever two could be mixed up.
CLIPS = {"rho_clip": 1.5, "c_clip": 0.7}
LAM, CLIP, FLOOR, VALUE, ENTROPY = 0.8, 0.3, 0.05, 0.7, 0.2
OPTIONS = {
    "a3c": (a3c, {}),
    "a3c with a floor": (a3c, {"probability_floor": FLOOR}),
    "impala": (impala, CLIPS),
    "appo": (appo, CLIPS | {"clip": CLIP, "normalize_advantage": False}),
    "appo normalized": (appo, CLIPS | {"clip": CLIP, "normalize_advantage": True}),
}
every_loss = pytest.mark.parametrize("name", OPTIONS)
every_loss_row_by_row = pytest.mark.parametrize("name", [name for name in OPTIONS if name != "appo normalized"])


def run(name, rollout, mask=None, value_coefficient=VALUE, entropy_coefficient=ENTROPY):
    """Returns loss, metrics and the gradients with respect to logits and values."""
    loss_of, options = OPTIONS[name]
    logits, value = rollout.logits.clone().requires_grad_(), rollout.value.clone().requires_grad_()
    outputs = Outputs(Categorical.from_logits(logits, mask), value)
    loss, metrics, _ = loss_of(
        outputs,
        batch_of(rollout),
        lam=LAM,
        value_coefficient=value_coefficient,
        entropy_coefficient=entropy_coefficient,
        **options,
    )
    loss.backward()
    return loss.detach(), metrics, logits.grad, value.grad


def batch_of(r) -> Batch:
    return Batch(r.action, r.behaviour_log_prob, r.reward, r.discount, r.trace, r.valid)


# The losses written out


def constants(name, rollout, vtrace_written_out):
    """Targets, advantages and impala's weights at the base point, for each valid row."""
    on_policy = rollout._replace(behaviour_log_prob=rollout.behaviour_log_prob + rollout.log_rho)
    if name.startswith("a3c"):
        rows = vtrace_written_out(on_policy, LAM, 1.0, 1.0)
    else:
        rows = vtrace_written_out(rollout, LAM, **CLIPS)
    mean, deviation = 0.0, 1.0
    if name == "appo normalized" and rows:
        mean = statistics.fmean(advantage for _, advantage in rows.values())
        deviation = statistics.pstdev((advantage for _, advantage in rows.values()), mean) or 1.0
    return {
        (t, b): (target, (advantage - mean) / deviation, min(1.5, math.exp(rollout.log_rho[t, b].item())))
        for (t, b), (target, advantage) in rows.items()
    }


def written_out(name, rollout, fixed, logits, value) -> float:
    total = 0.0
    for (t, b), (target, advantage, weight) in fixed.items():
        normaliser = math.log(sum(math.exp(x) for x in logits[t][b]))
        log_probs = [x - normaliser for x in logits[t][b]]
        log_prob = log_probs[rollout.action[t, b]]
        ratio = math.exp(log_prob - rollout.behaviour_log_prob[t, b].item())
        policy = {
            "a3c": -log_prob * advantage,
            "a3c with a floor": -math.log(math.exp(log_prob) + FLOOR) * advantage,
            "impala": -weight * log_prob * advantage,
            "appo": -min(ratio * advantage, min(max(ratio, 1 - CLIP), 1 + CLIP) * advantage),
        }[name.removesuffix(" normalized")]
        entropy = -sum(math.exp(x) * x for x in log_probs)
        total += policy + VALUE * (target - value[t][b]) ** 2 - ENTROPY * entropy
    return total / max(len(fixed), 1)


@every_loss
@given(seed=seeds, length=lengths)
def test_the_loss_is_the_mean_over_valid_rows_written_out(name, rollout_of, vtrace_written_out, seed, length):
    r = rollout_of(seed, length)
    fixed = constants(name, r, vtrace_written_out)
    expected = written_out(name, r, fixed, r.logits.tolist(), r.value.tolist())
    assert run(name, r)[0].item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@every_loss
@pytest.mark.parametrize("seed", range(4))
def test_gradients_are_the_finite_differences_with_advantage_and_target_constant(
    name, rollout_of, vtrace_written_out, seed
):
    r = rollout_of(seed, length=6)
    fixed, step = constants(name, r, vtrace_written_out), 1e-5

    def difference(which: int, index: tuple[int, ...]) -> float:
        worth = []
        for sign in (1, -1):
            parts = [r.logits.clone(), r.value.clone()]
            parts[which][index] += sign * step
            worth.append(written_out(name, r, fixed, *(part.tolist() for part in parts)))
        return (worth[0] - worth[1]) / (2 * step)

    for which, gradient in enumerate(run(name, r)[2:]):
        for index in torch.cartesian_prod(*(torch.arange(size) for size in gradient.shape)).tolist():
            expected = difference(which, tuple(index))
            assert gradient[tuple(index)].item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


# Boundaries and rows that do not count


@every_loss_row_by_row
@given(seed=seeds, length=lengths)
def test_a_batch_with_a_boundary_inside_has_the_gradient_of_its_trajectories(name, rollout_of, seed, length):
    """Each trajectory alone has no flags and no reset row; it counts by its number of rows."""
    r = rollout_of(seed, length)
    loss, _, logits_gradient, value_gradient = run(name, r)
    sums = [torch.zeros_like(x) for x in (loss, logits_gradient, value_gradient)]
    for b, start, end in r.trajectories():
        rows, column = slice(start, end + 1), slice(b, b + 1)
        value = torch.cat([r.value[rows, column], r.value_after(end, b).reshape(1, 1)])
        piece = type(r)(r.logits[rows, column], value, *(part[rows, column] for part in r[2:]))
        no = torch.zeros_like(piece.valid)
        alone = run(name, piece._replace(terminated=no, truncated=no))
        share = (end + 1 - start) / r.valid.sum()
        sums[0] += share * alone[0]
        sums[1][rows, column] += share * alone[2]
        sums[2][rows, column] += share * alone[3][:-1]
    for whole, pieces in zip((loss, logits_gradient, value_gradient), sums, strict=True):
        torch.testing.assert_close(whole, pieces)


@every_loss
@given(seed=seeds, length=lengths, garbage=st.floats(-1e6, 1e6))
def test_reset_rows_count_in_no_loss_metric_or_gradient(name, rollout_of, seed, length, garbage):
    r = rollout_of(seed, length)
    loss, metrics, *gradients = run(name, r)
    dirty_loss, dirty_metrics, *dirty_gradients = run(name, r.with_garbage_in_reset_rows(garbage))
    assert torch.equal(loss, dirty_loss)
    assert metrics.keys() == dirty_metrics.keys()
    assert all(torch.equal(metrics[key], dirty_metrics[key]) for key in metrics)
    assert all(map(torch.equal, gradients, dirty_gradients))
    assert not gradients[0][~r.valid].any()
    assert not gradients[1][:-1][~r.valid].any()


@every_loss
def test_a_reset_row_may_forbid_every_action(name, rollout_of):
    """As environments with masks do once a game is over; the row's policy is then not a number."""
    r = next(r for r in (rollout_of(seed, 8) for seed in range(50)) if not r.valid[2:-2].all())
    mask = r.valid.unsqueeze(-1).expand_as(r.logits)
    r = r._replace(behaviour_log_prob=r.behaviour_log_prob.masked_fill(~r.valid, math.nan))
    loss, metrics, *gradients = run(name, r, mask=mask)
    clean = r._replace(behaviour_log_prob=r.behaviour_log_prob.nan_to_num(0.0))
    expected, _, *expected_gradients = run(name, clean)
    assert torch.equal(loss, expected)
    assert all(x.isfinite().all() for x in metrics.values())
    assert all(map(torch.equal, gradients, expected_gradients))


@every_loss
def test_a_batch_without_valid_rows_has_no_loss_and_no_gradient(name, rollout_of):
    r = rollout_of(0, 4)
    loss, metrics, *gradients = run(name, r._replace(valid=torch.zeros_like(r.valid)))
    assert loss == 0
    assert not any(metric.any() for metric in metrics.values())
    assert not any(gradient.any() for gradient in gradients)


# The rules of the gradients


@every_loss
def test_the_policy_term_has_exactly_no_gradient_through_the_value(name, rollout_of):
    _, _, logits_gradient, value_gradient = run(name, rollout_of(1, 8), value_coefficient=0.0)
    assert logits_gradient.any()
    assert not value_gradient.any()


@every_loss
def test_the_value_term_has_exactly_no_gradient_through_the_policy(name, rollout_of):
    r = rollout_of(1, 8)
    without, much = (run(name, r, value_coefficient=coefficient) for coefficient in (0.0, 1e6))
    assert much[3].any()
    assert torch.equal(without[2], much[2])


@every_loss
def test_the_target_is_a_constant_so_the_bootstrap_value_has_no_gradient(name, rollout_of):
    assert not run(name, rollout_of(1, 8))[3][-1].any()


@every_loss
def test_entropy_is_maximised(name, rollout_of):
    r = rollout_of(2, 6)
    r = r._replace(reward=0 * r.reward, value=0 * r.value)  # nothing else to gain
    _, before, gradient, _ = run(name, r)
    _, after, _, _ = run(name, r._replace(logits=r.logits - 0.1 * gradient))
    assert after["entropy"] > before["entropy"] > 0


@every_loss
def test_reported_entropy_is_in_nats_over_valid_rows_only(name, rollout_of):
    r = rollout_of(2, 6)
    assert not r.valid.all()
    certain = torch.tensor([0.0, 0.0, 100.0], dtype=torch.float64)
    _, metrics, _, _ = run(name, r._replace(logits=~r.valid.unsqueeze(-1) * certain))
    assert metrics["entropy"].item() == pytest.approx(math.log(3))


@every_loss
def test_the_reported_terms_make_up_the_loss(name, rollout_of):
    loss, terms, _, _ = run(name, rollout_of(1, 8))
    total = terms["policy_loss"] + VALUE * terms["value_loss"] - ENTROPY * terms["entropy"]
    assert loss.item() == pytest.approx(total.item())


@every_loss
def test_metrics_carry_no_graph(name, rollout_of):
    assert not any(metric.requires_grad for metric in run(name, rollout_of(0, 4))[1].values())


@every_loss_row_by_row
def test_a_reward_moves_the_action_it_followed(name):
    row = torch.zeros(3, 1)
    reward, mu = torch.tensor([[0.0], [1.0], [0.0]]), row - math.log(2)
    logits = torch.zeros(3, 1, 2, requires_grad=True)
    outputs = Outputs(Categorical.from_logits(logits), torch.zeros(4, 1))
    loss_of, options = OPTIONS[name]
    loss, *_ = loss_of(
        outputs, Batch(row.long(), mu, reward, row, row + 1, row == 0), entropy_coefficient=0.0, **options
    )
    loss.backward()
    assert logits.grad[1, 0, 0] < 0 < logits.grad[1, 0, 1], "descent makes action 0 of row 1 more likely"
    assert not logits.grad[[0, 2]].any()


@every_loss
@pytest.mark.parametrize("taken", [0, 1])
def test_logits_of_ten_thousand_give_a_finite_loss_and_gradient(name, taken):
    logits = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]], requires_grad=True)
    row = torch.ones(2, 1)
    batch = Batch(row.long() * taken, -row, row, row * 0.9, row, row.bool())
    loss_of, options = OPTIONS[name]
    loss, metrics, _ = loss_of(Outputs(Categorical.from_logits(logits), torch.zeros(3, 1)), batch, **options)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert metrics["entropy"] == 0
