"""Started twice by `accelerate launch` from test_training.py: a run of seconds, whose weights must agree.

Arguments: folder of the run, folder of rendered faces.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.utils import gather_object
from test_training import small

from dystyle.encoders.precision import fast_bfloat16
from dystyle.engines.graphs import generator
from dystyle.training.editor import EditorTrainer

torch.set_num_threads(1)
config = small(Path(sys.argv[1]), Path(sys.argv[2]), attributes=("yaw", "smile"))
precision = "bf16" if fast_bfloat16(torch.device("cpu")) else "no"  # minutes a step where it is slow
trainer = EditorTrainer(replace(config, precision=precision), generator())
start = trainer.editor.experts["yaw"].input.weight.detach().clone()
trainer.run()
assert not torch.equal(start, trainer.editor.experts["yaw"].input.weight)
for state in (trainer.editor.state_dict(), trainer.average.state_dict()):
    first, second = gather_object([{name: value.cpu() for name, value in state.items()}])
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
first, second = gather_object([torch.get_rng_state()])
assert not torch.equal(first, second), "both processes drew the same edits"
torch.distributed.destroy_process_group()
