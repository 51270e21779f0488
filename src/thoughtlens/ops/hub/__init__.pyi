from .publish import pull as pull
from .publish import push as push
