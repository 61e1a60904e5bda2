import numpy as np
import pytest
from imaging_grids import ORIENTATIONS, name_of


@pytest.fixture(params=ORIENTATIONS, ids=name_of)
def orientation(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20240611)
