from core.states import MOVES, Status, sources


def test_ended_states_have_no_way_out() -> None:
    assert {status for status in Status if status.ended} == {
        Status.SUCCEEDED,
        Status.FAILED,
        Status.CANCELED,
    }


def test_sources_is_the_inverse_of_moves() -> None:
    for target in Status:
        assert set(sources(target)) == {s for s in Status if target in MOVES[s]}


def test_only_a_running_job_can_succeed() -> None:
    assert sources(Status.SUCCEEDED) == [Status.RUNNING]
