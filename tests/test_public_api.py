"""The names of `import profiler`: there without torch, explained, and as their examples say."""

import inspect
import subprocess
import sys

import pytest

import profiler

FUNCTIONS = [name for name in profiler.__all__ if inspect.isfunction(getattr(profiler, name))]
EXAMPLES = """
import doctest, sys, profiler
function = getattr(profiler, sys.argv[1])
(test,) = doctest.DocTestFinder(recurse=False).find(function, sys.argv[1], globs=dict(vars(profiler)))
failed, tried = doctest.DocTestRunner().run(test)
sys.exit(0 if tried and not failed else 1)
"""


def test_importing_profiler_and_touching_every_name_imports_no_torch():
    code = (
        "import sys, profiler\n"
        "for name in profiler.__all__: getattr(profiler, name)\n"
        "assert not {'torch', 'pandas', 'numpy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_says_what_it_raises_and_its_example_is_true(name):
    assert "Raises" in inspect.getdoc(getattr(profiler, name))
    done = subprocess.run([sys.executable, "-c", EXAMPLES, name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'predictt'"):
        profiler.predictt  # noqa: B018
