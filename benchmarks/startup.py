"""What it costs to start: milliseconds and modules loaded, medians over several processes."""

import subprocess
import sys
import time
from statistics import median

RUNS = 15
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import lookalike": ["-c", "import lookalike"],
    "lookalike --help": ["-m", "lookalike", "--help"],
    "open and search parts": ["-c", "import lookalike.settings, lookalike.encoders, faiss, onnxruntime"],
}


def main() -> None:
    print(f"| what | ms (median of {RUNS}) | modules |\n|---|---|---|")
    for name, arguments in COMMANDS.items():
        times = []
        for _ in range(RUNS):
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - started)
        listed = subprocess.run(
            [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True
        )
        modules = listed.stderr.count("\n") - 1
        print(f"| `{name}` | {median(times) * 1000:.0f} | {modules} |")


if __name__ == "__main__":
    main()
