from .decode import bench_decode as bench_decode
from .extract import bench_extract as bench_extract
from .interpret import bench_interpret as bench_interpret
from .process import bench_memory as bench_memory
from .process import bench_startup as bench_startup
from .stack import bench_stack as bench_stack
from .store import bench_store as bench_store
from .train_step import bench_train_step as bench_train_step
