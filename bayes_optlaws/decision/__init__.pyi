from . import allocate as allocate
from . import design as design
from . import equivalent as equivalent
from . import explain as explain
from . import near_ties as near_ties
from . import rank as rank
from . import ranking as ranking
from . import suggest as suggest
