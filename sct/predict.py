"""`python -m sct.predict ckpt=RUN input=FILE_OR_FOLDER output=FOLDER`: label maps for new images.

`ckpt` may also be what `sct.export` wrote; `backend=onnx` takes what it wrote into the run's folder.
"""

from sct.config import command
from sct.config.help import Page


def main() -> None:
    command.run(
        "sct.tasks.predict:predict",
        config_name="predict",
        page=Page(__doc__, groups=("inferer",)),
        open_groups=("inferer",),
    )


if __name__ == "__main__":
    main()
