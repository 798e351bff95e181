"""What each estimator is off on the published rows, and how often it says rightly that memory runs out."""

from dataclasses import dataclass

import numpy as np
from rows import PEERS, Row, Setting
from run_row import Answer

OURS = "virtual GPU"
ESTIMATORS = (OURS, *PEERS)


@dataclass(frozen=True)
class Judged:
    """A row and what was said of it. errors: predicted - truth by estimator, as a share of the truth; none
    where memory ran out, on the card or on the virtual one. says_out_of_memory: by estimator.
    """

    row: Row
    answer: Answer
    errors: dict[str, float]
    says_out_of_memory: dict[str, bool]


def judge(rows: list[Row], answers: dict[Setting, Answer]) -> list[Judged]:
    """The rows that have an answer. An estimator other than ours says that memory runs out where its figure
    is at least 98 % of what the card has in all: theirs are cut off near that size.
    """
    judged = []
    for row in rows:
        answer = answers.get(row.setting)
        if answer is None:
            continue
        said = dict(row.peers)
        verdicts = {name: size >= 0.98 * row.setting.memory_bytes for name, size in said.items()}
        verdicts[OURS] = answer.out_of_memory
        if not answer.out_of_memory:
            said[OURS] = answer.nvml_less_first_bytes
        errors = {
            name: (size - row.measured_bytes) / row.measured_bytes
            for name, size in said.items()
            if not row.out_of_memory
        }
        judged.append(Judged(row, answer, errors, verdicts))
    return judged


@dataclass(frozen=True)
class Score:
    """Of one estimator: absolute errors as shares, how many rows it put more than 3 % too low, and verdicts
    on memory that runs out.
    """

    rows: int
    median: float
    ninth_decile: float
    most: float
    too_low: int
    verdicts_right: int
    verdicts: int


def score(judged: list[Judged], estimator: str) -> Score:
    errors = np.array([row.errors[estimator] for row in judged if estimator in row.errors])
    said = [row for row in judged if estimator in row.says_out_of_memory]
    right = sum(row.says_out_of_memory[estimator] == row.row.out_of_memory for row in said)
    sizes = np.abs(errors)
    return Score(
        len(errors),
        float(np.median(sizes)),
        float(np.percentile(sizes, 90)),
        float(sizes.max()),
        int((errors < -0.03).sum()),
        right,
        len(said),
    )
