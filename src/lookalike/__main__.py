"""`python -m lookalike`, for launchers that start modules: torchrun -m lookalike train …"""

from lookalike.cli import main

if __name__ == "__main__":  # processes that read pictures import this file once more
    main()
