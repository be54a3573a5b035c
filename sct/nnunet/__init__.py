"""This project's networks in nnU-Net's own pipeline: trainers that nnU-Net finds (extra `nnunet`).

    export nnUNet_extTrainer=$(python -c "import sct.nnunet; print(sct.nnunet.FOLDER)")
    nnUNetv2_train 1 3d_fullres 0 -tr nnUNetTrainerSCT
    nnUNetv2_predict -i IN -o OUT -d 1 -c 3d_fullres -f 0 -tr nnUNetTrainerSCT

nnU-Net plans, preprocesses, augments, validates and predicts; network, loss and optimizer are of this project.
"""

from pathlib import Path

# where nnU-Net looks for trainers: the value of its variable nnUNet_extTrainer
FOLDER = Path(__file__).parent / "trainers"
