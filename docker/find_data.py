"""The `data` service: the demo's data set into a volume, and what the demo is about into demo.json beside it.

Fashion-MNIST from the mounted folder, else from torchvision's download, else scikit-learn's digits, which need
neither. A volume that has been prepared stays as it is: `docker compose down --volumes` begins anew.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

from shared.datasets import DatasetUnavailable, load_dataset
from shared.datasets.published import DOWNLOAD_ROOT

VARIABLE = "DISTILL_DATA"
DEMO = DOWNLOAD_ROOT / "demo.json"
FASHION_MNIST = Path("FashionMNIST", "raw")


def main() -> None:
    """Leave the data set and demo.json in the volume."""
    if DEMO.exists():
        demo = json.loads(DEMO.read_text())
        print(f"data: {demo['dataset']}, as an earlier `up` has found it", flush=True)
        return
    dataset = find()
    config = Path("configs") / f"demo-{dataset}.toml"
    # From here on without the mounted folder, as every other container will see it.
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = ["distill", "plan", str(config), "--json"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    plan = json.loads(done.stdout)
    unfinished = DEMO.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"dataset": dataset, "config": str(config), "planned": plan["total"]}))
    unfinished.rename(DEMO)
    print(f"data: {dataset} is ready; a run will buy {plan['total']:,} answers", flush=True)


def find() -> str:
    """Name the data set that could be had, and leave its files in the volume."""
    try:
        load_dataset("fashion-mnist", "train")
        load_dataset("fashion-mnist", "test")
    except DatasetUnavailable as error:
        print(f"data: {error}\ndata: running on scikit-learn's bundled digits instead", flush=True)
        return "digits"
    mounted = Path(os.environ.get(VARIABLE, "")) / FASHION_MNIST
    if mounted.is_dir():
        (DOWNLOAD_ROOT / FASHION_MNIST).mkdir(parents=True, exist_ok=True)
        for file in sorted(path for path in mounted.iterdir() if path.is_file()):
            shutil.copyfile(file, DOWNLOAD_ROOT / FASHION_MNIST / file.name)
    return "fashion-mnist"


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # such as a mounted folder that only its owner may read
        raise SystemExit(
            f"data: {error}; this is user {os.getuid()}, who must be able to read $DISTILL_DATA"
        ) from None
