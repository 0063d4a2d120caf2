"""Started twice by test_generator_training.py: a run of seconds, whose weights must agree.

Arguments: folder of the run, folder of pictures.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.utils import gather_object
from test_generator_training import small

from dystyle.training.generator import GeneratorTrainer

torch.set_num_threads(1)
config = small(Path(sys.argv[1]), Path(sys.argv[2]))
trainer = GeneratorTrainer(replace(config, precision="bf16"))
trainer.run()
for network in (trainer.generator, trainer.average, trainer.discriminator):
    first, second = gather_object([{name: value.cpu() for name, value in network.state_dict().items()}])
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
first, second = gather_object([torch.get_rng_state()])
assert not torch.equal(first, second), "both processes drew the same codes"
torch.distributed.destroy_process_group()
