"""What can run the engines here: python -m dystyle.engines."""

from dystyle.engines.choice import fastest_on_cpu
from dystyle.engines.hardware import runtimes

for name, reason in runtimes().items():
    print(f"{name:12} {'not available: ' + reason if reason else 'available'}")
print(f"backend='auto' takes {fastest_on_cpu()} on this CPU")
