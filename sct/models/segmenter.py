"""Encoder, completion and decoder as one network."""

from collections.abc import Callable

from torch import Tensor, nn

from sct.models.base import Encoder
from sct.models.blocks.layers import Scheduled
from sct.models.completion.base import Completion
from sct.models.decoders.base import Decoder, TwoStageDecoder
from sct.models.look import FirstLook
from sct.models.tokens import Prediction


class Segmenter(nn.Module):
    """image -> encoder -> completion -> decoder -> logits.

    A first look shares no weight with the other parts: it learns beside them, and chooses windows once it is trained.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        completion: Callable[..., Completion],
        decoder: Callable[..., Decoder],
        num_classes: int,
        look: Callable[..., FirstLook] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.completion = completion(spec=encoder.spec)
        self.decoder = decoder(spec=self.completion.spec, num_classes=num_classes)
        self.num_classes = num_classes
        # built last: the weights that the other parts start with are the same without it
        self.look = look(spec=encoder.spec) if look is not None else None

    def forward(self, image: Tensor) -> Prediction | Tensor:
        """image (B, C, *S) -> Prediction in training, logits (B, Q, *S) in evaluation."""
        prediction = self.predict(image)
        return prediction if self.training else prediction.logits

    def predict(self, image: Tensor) -> Prediction:
        """image (B, C, *S) -> logits and sparse features, in training and evaluation alike."""
        encoded = self.encoder(image)
        decoded = self.decoder(image, self.completion(encoded))
        look = self.look(image) if self.training and self.look is not None else None
        return Prediction(decoded.logits, encoded, decoded.head, decoded.aux, decoded.levels, look)

    def features(self, image: Tensor) -> Tensor:
        """image (B, C, *S) -> features (B, F, *S / stride) of the first stage of a `TwoStageDecoder`."""
        assert isinstance(self.decoder, TwoStageDecoder)
        return self.decoder.features(image, self.completion(self.encoder(image)))

    def set_progress(self, done: float) -> None:
        """Sets the share of the training that is done (0 to 1), for schedules of the pruning method."""
        for module in self.modules():
            if isinstance(module, Scheduled):
                module.progress = done
