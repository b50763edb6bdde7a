"""Print what each layer of an image takes, and fail where one is over image/budget.yaml.

    python tools/image_size.py FOLDER

FOLDER is the image as `buildah push --disable-compression IMAGE dir:FOLDER` writes it.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import yaml

BUDGET = Path(__file__).resolve().parents[1] / "image" / "budget.yaml"


def sizes(folder, budget):
    """MB of each layer that the budget names; what no other step has made is the base's."""
    manifest = json.loads((folder / "manifest.json").read_text())
    config = json.loads((folder / manifest["config"]["digest"].partition(":")[2]).read_text())
    made = [step for step in config["history"] if not step.get("empty_layer")]
    found = Counter(dict.fromkeys(budget, 0.0))
    for step, layer in zip(made, manifest["layers"], strict=True):
        found[_name(step.get("created_by", ""), budget)] += layer["size"] / 1e6
    return found


def over(found, budget):
    """A line for each layer that is larger than it may be, or that is not there."""
    for name, layer in budget.items():
        if found[name] > layer["megabytes"]:
            yield (
                f"layer {name} takes {found[name]:.0f} MB, and image/budget.yaml allows "
                f"{layer['megabytes']}: find what grew, or say there why it may"
            )
        elif not found[name]:
            yield f"layer {name}: no step of the image has {layer['step']!r}: see image/budget.yaml"


def _name(step, budget):
    return next(
        (n for n, layer in budget.items() if layer["step"] and layer["step"] in step), "base"
    )


def main(folder):
    budget = yaml.safe_load(BUDGET.read_text())
    found = sizes(Path(folder), budget)
    total = sum(found.values())
    print("layer        MB  share  budget")
    for name, layer in budget.items():
        share = found[name] / total
        print(f"{name:9} {found[name]:5.0f}  {share:5.1%}  {layer['megabytes']:6}")
    print(f"{'all':9} {total:5.0f}         {sum(b['megabytes'] for b in budget.values()):6}")
    sys.exit("\n".join(over(found, budget)) or None)


if __name__ == "__main__":
    main(*sys.argv[1:])
