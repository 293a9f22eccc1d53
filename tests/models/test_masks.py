import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import masks

classes = st.integers(masks.MIN_CLASSES, masks.MAX_CLASSES)


@given(k=classes, data=st.data())
def test_code_and_labels_are_inverse(k: int, data: st.DataObject) -> None:
    labels = tuple(sorted(data.draw(st.sets(st.integers(0, k - 1)))))
    code = masks.forget_code(labels)
    assert masks.forget_labels(code, k) == labels
    retained = masks.retain_masks([code], k)[0]
    assert [c for c in range(k) if not retained[c]] == list(labels)


@pytest.mark.parametrize("k", range(masks.MIN_CLASSES, masks.MAX_CLASSES + 1))
def test_training_never_sees_a_held_out_mask(k: int) -> None:
    held_out, training = masks.held_out_codes(k), masks.training_codes(k)
    assert not set(held_out.tolist()) & set(training.tolist())
    assert set(held_out.tolist()) | set(training.tolist()) == {0, *masks.proper_codes(k).tolist()}
    assert len(held_out) == (2**k - 2) // 5


def test_held_out_masks_are_the_published_ones() -> None:
    drawn = np.random.default_rng(0).permutation(np.arange(1, 2**10 - 1))[: (2**10 - 2) // 5]
    assert masks.held_out_codes(10).tolist() == drawn.tolist()
