from . import limits as limits
from . import scaling_rules as scaling_rules
from . import sde as sde
