"""A run folder outlives versions of this program: its configuration is known again after keys were added."""

import tomllib

from distill_client.config import RunConfig
from distill_client.config_identity import is_unchanged

# As the program of before label_only and training.tail wrote it, with the digest that it wrote into run.json.
DIGEST = "07e513c0df5f42e31027145b33893bee6f44c72d84324f366dd0f1401c0ed593"
WRITTEN = """
name = "old"
seed = 1
budget_images = 10
teacher = { name = "t", images_per_request = 256, requests_in_flight = 2, deadline_s = 120.0 }
pool = { dataset = "digits", images = 5, balanced = true }
student = { network = "lenet5", augmentation = "combination" }
augmentation = { rotate_degrees = 10.0, shift_fraction = 0.1, flip = false }
evaluation = { dataset = "digits", held_out_fraction = 0.02 }

[synthesis]
images = 5
mixup = { alpha = 1.0, lambda_decimals = 2, original_within = 0.05 }

[synthesis.cvae]
network = "auto"
latent = 2
epochs = 200
batch_size = 256
learning_rate = 0.001
z = "hybrid"
z_uniform_bound = 3.0

[training]
batch_size = 256
steps = 3
learning_rate = 0.005
warmup_steps = 0
decay = "cosine"
l2 = 0.0
averaging_decay = 0.0

[baselines]
student_alone = true
student_alone_augmentation = "none"
standard_kd = true
standard_kd_augmentation = "none"
"""


def test_a_configuration_of_an_earlier_version_is_known_again() -> None:
    written = tomllib.loads(WRITTEN)
    config = RunConfig.model_validate(written)
    assert config.digest() != DIGEST, "keys were added since"
    assert is_unchanged(config, written, DIGEST)


def test_whatever_is_changed_or_added_by_hand_is_found() -> None:
    for changed in (
        WRITTEN.replace("images = 5,", "images = 6,"),
        WRITTEN.replace("l2 = 0.0", "l2 = 0.1"),
        WRITTEN.replace("l2 = 0.0", 'l2 = 0.0\ntail = "spread"'),
        WRITTEN + "\n[label_only]\nensemble = 0\n",
        WRITTEN.replace("flip = false", "flip = true"),
    ):
        assert changed != WRITTEN
        written = tomllib.loads(changed)
        assert not is_unchanged(RunConfig.model_validate(written), written, DIGEST)


def test_todays_configuration_is_its_own() -> None:
    config = RunConfig.model_validate(tomllib.loads(WRITTEN))
    written = config.model_dump(mode="json", exclude_none=True)
    assert is_unchanged(config, written, config.digest())
    assert not is_unchanged(config, written, DIGEST)
