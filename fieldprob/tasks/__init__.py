"""Tasks: inputs, targets, noise and test points, from teachers and from data that an installed package ships.

Inputs are scaled so that |x|^2 / inputs is of order one, as the first-layer kernel
`weight_variance[0] * x.x' / inputs` expects. The same seed gives the same data on any machine, at any precision.
"""

from fieldprob.tasks.base import Observation as Observation
from fieldprob.tasks.base import Task as Task
from fieldprob.tasks.base import Values as Values
from fieldprob.tasks.datasets import breast_cancer as breast_cancer
from fieldprob.tasks.datasets import diabetes as diabetes
from fieldprob.tasks.datasets import digits as digits
from fieldprob.tasks.measures import Circle as Circle
from fieldprob.tasks.measures import Gaussian as Gaussian
from fieldprob.tasks.measures import Interval as Interval
from fieldprob.tasks.measures import Pool as Pool
from fieldprob.tasks.measures import Sphere as Sphere
from fieldprob.tasks.modular import modular_addition as modular_addition
from fieldprob.tasks.population import Population as Population
from fieldprob.tasks.teachers import HermiteTeacher as HermiteTeacher
from fieldprob.tasks.teachers import cubic_teacher as cubic_teacher
from fieldprob.tasks.teachers import ising as ising
from fieldprob.tasks.teachers import linear_teacher as linear_teacher
from fieldprob.tasks.teachers import single_index_teacher as single_index_teacher
from fieldprob.tasks.text import copying as copying
from fieldprob.tasks.text import text_windows as text_windows
