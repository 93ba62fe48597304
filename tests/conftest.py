"""Options of the test run."""


def pytest_addoption(parser):
    parser.addoption("--device", action="store_true", help="run the CUDA backend's tests on the GPU, not on the shim")
    parser.addoption("--update-goldens", action="store_true", help="write the golden files instead of comparing")
