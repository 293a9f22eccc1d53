import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.masks import proper_codes, retain_masks, training_codes
from models.regression import degree_of, monomials, regress, terms


@given(k=st.integers(3, 6), degree=st.integers(0, 3))
def test_monomials_are_orthogonal_over_all_masks(k: int, degree: int) -> None:
    x = monomials(retain_masks(np.arange(2**k), k), degree)
    torch.testing.assert_close(x.T @ x, 2.0**k * torch.eye(x.shape[1]))


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_finds_the_degree_that_made_the_weights(degree: int) -> None:
    torch.manual_seed(0)
    masks = retain_masks(training_codes(8), 8)
    terms = monomials(masks, degree)
    true = torch.randn(terms.shape[1], 20)
    found = regress(masks, terms @ true + 0.5 * torch.randn(len(masks), 20))
    assert found.degree == degree
    assert (found.coefficients - true).abs().mean() < 0.1


def test_left_out_is_what_a_fit_without_the_mask_says() -> None:
    torch.manual_seed(0)
    masks = retain_masks(training_codes(6), 6)
    weights = monomials(masks, 2) @ torch.randn(22, 5) + 0.1 * torch.randn(len(masks), 5)
    found = regress(masks, weights)
    keep = torch.arange(len(masks)) != 7
    x = monomials(masks[keep], found.degree).double()
    inner = x.T @ x + torch.eye(x.shape[1])
    without = torch.linalg.solve(inner, x.T @ weights[keep].double())
    expected = monomials(masks[7:8], found.degree).double() @ without
    torch.testing.assert_close(found.left_out[7:8], expected.float(), rtol=1e-3, atol=1e-4)


def test_too_few_masks_give_the_mean() -> None:
    masks, weights = retain_masks(proper_codes(3)[:3], 3), torch.randn(3, 4)
    found = regress(masks, weights)
    assert found.degree == 0
    torch.testing.assert_close(monomials(masks, 0) @ found.coefficients, found.left_out)


@given(k=st.integers(3, 10), degree=st.integers(0, 3))
def test_the_degree_follows_from_the_number_of_terms(k: int, degree: int) -> None:
    count = monomials(retain_masks([1], k), degree).shape[1]
    assert terms(k, degree) == count
    assert degree_of(count, k) == degree
