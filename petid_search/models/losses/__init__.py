"""What training makes small: one class a loss, each from its paper, each a Keras loss in float32.

Losses of embeddings compare the photos of a batch with each other; losses of cosines stand on a cosine classifier.
Importing this imports Keras: names without that are in `models.by_name`.
"""

from petid_search.models.losses.margin_softmax import ArcFaceLoss, CosFaceLoss
from petid_search.models.losses.supervised_contrastive import SupervisedContrastiveLoss
from petid_search.models.losses.triplet import TripletHardLoss, TripletSemiHardLoss

__all__ = ["ArcFaceLoss", "CosFaceLoss", "SupervisedContrastiveLoss", "TripletHardLoss", "TripletSemiHardLoss"]
