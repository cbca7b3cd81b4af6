"""Figures of thousands of jobs are written at a bounded rate."""

from costopt_operator.act.rate_limiter import RateLimiter


def test_no_more_is_given_out_than_has_grown_again() -> None:
    now = [0.0]
    allowance = RateLimiter(5, clock=lambda: now[0])
    assert sum(allowance.take() for _ in range(100)) == 50
    now[0] = 2.0
    assert sum(allowance.take() for _ in range(100)) == 10
    now[0] = 1000.0
    assert sum(allowance.take() for _ in range(100)) == 50
