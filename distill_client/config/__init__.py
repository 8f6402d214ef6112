"""One TOML file per experiment: its sections, their bounds, and how the file is read.

Each function of the client receives the section that is its own, never the whole. Where the teacher is and which
key is used are not part of an experiment: they come from flags and the environment.
"""

from distill_client.config.budget import BudgetConfig as BudgetConfig
from distill_client.config.pool import PoolConfig as PoolConfig
from distill_client.config.pool import TeacherConfig as TeacherConfig
from distill_client.config.reading import faults_of as faults_of
from distill_client.config.reading import load_config as load_config
from distill_client.config.run import RunConfig as RunConfig
from distill_client.config.section import Positive as Positive
from distill_client.config.section import Section as Section
from distill_client.config.student import Augmentation as Augmentation
from distill_client.config.student import AugmentationConfig as AugmentationConfig
from distill_client.config.student import BaselineConfig as BaselineConfig
from distill_client.config.student import EnsembleConfig as EnsembleConfig
from distill_client.config.student import EvaluationConfig as EvaluationConfig
from distill_client.config.student import LabelOnlyConfig as LabelOnlyConfig
from distill_client.config.student import StudentConfig as StudentConfig
from distill_client.config.student import Tail as Tail
from distill_client.config.student import TrainingConfig as TrainingConfig
from distill_client.config.synthesis import ActiveConfig as ActiveConfig
from distill_client.config.synthesis import CvaeConfig as CvaeConfig
from distill_client.config.synthesis import GanConfig as GanConfig
from distill_client.config.synthesis import MixupConfig as MixupConfig
from distill_client.config.synthesis import SynthesisConfig as SynthesisConfig
from distill_client.config.synthesis import ViewsConfig as ViewsConfig
