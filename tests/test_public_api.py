"""The names of `import profiler`: there without torch, explained, and as their examples say."""

import inspect
import json
import subprocess
import sys

import pytest

import profiler

FUNCTIONS = [name for name in profiler.__all__ if inspect.isfunction(getattr(profiler, name))]
# Of all functions, in one process: the simulated GPU first, which is to be there before the first backward.
EXAMPLES = """
import doctest, io, json, profiler, sys
from contextlib import redirect_stdout
for name in sorted(sys.argv[1:], key=lambda name: name != "simulated_gpu"):
    function = getattr(profiler, name)
    (test,) = doctest.DocTestFinder(recurse=False).find(function, name, globs=dict(vars(profiler)))
    with redirect_stdout(io.StringIO()) as said:
        failed, tried = doctest.DocTestRunner().run(test)
    print(json.dumps([name, tried > 0 and not failed, said.getvalue()]))
"""


@pytest.fixture(scope="module")
def examples():
    """Whether each function's example is true, and what was said."""
    words = [sys.executable, "-c", EXAMPLES, *FUNCTIONS]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: (true, said) for name, true, said in map(json.loads, done.stdout.splitlines())}


def test_importing_profiler_and_touching_every_name_imports_no_torch():
    code = (
        "import sys, profiler\n"
        "for name in profiler.__all__: getattr(profiler, name)\n"
        "assert not {'torch', 'pandas', 'numpy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_says_what_it_raises_and_its_example_is_true(name, examples):
    assert "Raises" in inspect.getdoc(getattr(profiler, name))
    true, said = examples[name]
    assert true, said


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'predictt'"):
        profiler.predictt  # noqa: B018
