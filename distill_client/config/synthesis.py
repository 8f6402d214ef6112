"""What is invented beside the pool: one section per kind of synthetic image, and which of them a run buys."""

from typing import Literal, Self

from pydantic import Field, model_validator

from distill_client.config.section import Positive, Section


class MixupConfig(Section):
    """MixUp, FS-BBT section 3.1: x = lambda x1 + (1 - lambda) x2 with lambda ~ Beta(alpha, alpha)."""

    alpha: float = Field(1.0, gt=0)
    lambda_decimals: int = Field(2, ge=1, le=6)
    original_within: float = Field(
        0.05,
        ge=0,
        lt=0.5,
        description="a lambda this near 0 or 1 leaves an original; a CVAE image takes its place",
    )


class CvaeConfig(Section):
    """The conditional VAE, FS-BBT section 3.2, trained on the pool alone.

    The released code trains it on another draw of as many images from the same data set, and lays classes and z out
    so that the first half of the classes has Gaussian z only, the second half uniform z only.
    """

    pool: Literal["own", "second"] = Field(
        "own", description="'second': as released, from a second pool, which is bought too and teaches the CVAE only"
    )
    layout: Literal["balanced", "by-class"] = Field(
        "balanced", description="of z over the classes; 'by-class': as released"
    )
    network: Literal["auto", "mlp", "conv"] = Field("auto", description="mlp for 28x28, conv for every other size")
    latent: int = Field(2, ge=1, le=1024)
    epochs: Positive = 200
    batch_size: Positive = 256
    learning_rate: float = Field(1e-3, gt=0)
    z: Literal["hybrid", "gaussian", "uniform"] = "hybrid"
    z_uniform_bound: float = Field(3.0, gt=0)


class ViewsConfig(Section):
    """Mixed views: two pool images, each transformed at random, x = share T1(x1) + (1 - share) T2(x2).

    Bounds of what is drawn evenly for every image: a rotation, shifts as fractions of the sides, a scale around one,
    a shear, whether to mirror, an elastic distortion. What enters is black. ``share`` is between ``least_share`` and
    one; one mixes nothing.
    """

    least_share: float = Field(0.5, ge=0, le=1)
    rotate_degrees: float = Field(10.0, ge=0, le=180)
    shift_fraction: float = Field(0.06, ge=0, le=0.5)
    scale_fraction: float = Field(0.12, ge=0, lt=1)
    shear: float = Field(0.08, ge=0, le=1)
    flip: bool = Field(False, description="mirror half of the images; for things that may face either way")
    elastic_fraction: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="elastic distortion, for handwriting: how far each point of a 4 by 4 lattice is moved at most, "
        "as a fraction of the sides; what is between them follows",
    )


class ActiveConfig(Section):
    """Active MixUp (BBKD): of every pair the blend that the student is least sure of, and of these the least sure.

    The shares lie on a grid from ``least_share`` to ``most_share``; the defaults are the published code's.
    """

    candidates: Positive = Field(200_000, description="pairs of the pool to choose from; all of them where fewer")
    least_share: float = Field(0.30, ge=0, le=1)
    most_share: float = Field(0.70, ge=0, le=1)
    share_step: float = Field(0.04, ge=1e-3, le=1)

    @model_validator(mode="after")
    def _grid_is_not_empty(self) -> Self:
        if self.least_share > self.most_share:
            raise ValueError(f"least_share is {self.least_share}, above most_share {self.most_share}")
        return self


class GanConfig(Section):
    """A WGAN-GP, trained on the pool alone; what it makes is balanced over the classes that a student sees in it.

    The networks and the loss are DivBFKD's (section 3.1). The defaults of ``width``, ``batch_size``, ``epochs`` and
    ``learning_rate`` are for minutes on one core; DivBFKD's are 256, 250, 1,000 for Fashion-MNIST and 5e-5, and its
    ``latent`` is 100 for MNIST, 200 for Fashion-MNIST and 256 for others.
    """

    latent: int = Field(200, ge=1, le=4096)
    width: int = Field(32, ge=8, le=4096, description="channels of the generator's first map")
    epochs: Positive = 100
    batch_size: Positive = 64
    learning_rate: float = Field(5e-4, gt=0, description="RMSprop's, of both networks")
    critic_steps: Positive = Field(5, description="of the critic, for each of the generator")
    gradient_penalty: float = Field(10.0, gt=0)
    candidates_per_image: Positive = Field(
        4, description="at most so many images are generated for each that is bought, until classes are balanced"
    )


class SynthesisConfig(Section):
    """How many images are invented and bought beside the pool, and by what.

    "fs-bbt" blends raw pairs and has a CVAE's images where a blend would be an original; "mixed-views" is ours;
    "active-mixup" is BBKD's, which lets the students of each round choose the next; "wgan-gp" is DivBFKD's generator.
    """

    images: int = Field(ge=0, le=10_000_000)
    method: Literal["fs-bbt", "mixed-views", "active-mixup", "wgan-gp"] = "fs-bbt"
    views: ViewsConfig = ViewsConfig()
    active: ActiveConfig = ActiveConfig()
    mixup: MixupConfig = MixupConfig()
    cvae: CvaeConfig = CvaeConfig()
    gan: GanConfig = GanConfig()

    @property
    def has_second_pool(self) -> bool:
        """Whether real images beside the pool are bought, for the CVAE alone."""
        return self.method == "fs-bbt" and self.images > 0 and self.cvae.pool == "second"
