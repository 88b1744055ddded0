"""`python -m lookalike`, for launchers that start modules: torchrun -m lookalike train …"""

from lookalike.cli import main

main()
