"""`python -m sct.export ckpt=RUN format=torch|onnx|openvino|bundle`: the network for elsewhere, checked."""

from sct.config import command
from sct.config.help import Page


def main() -> None:
    command.run("sct.tasks.export:export", config_name="export", page=Page(__doc__), open_groups=("data",))


if __name__ == "__main__":
    main()
