"""Classic machine learning: the domain ``ai.onnx.ml``."""

from __future__ import annotations

from onnxslim.ops.spec import OpSpec

__all__ = ["SPECS"]

# Maps come in or go out: no tensors, nothing to fold.
_MAPS = frozenset({"CastMap", "DictVectorizer", "ZipMap"})

SPECS = tuple(
    OpSpec(op_type=name, domain="ai.onnx.ml", foldable=name not in _MAPS)
    for name in (
        "ArrayFeatureExtractor",
        "Binarizer",
        "CastMap",
        "CategoryMapper",
        "DictVectorizer",
        "FeatureVectorizer",
        "Imputer",
        "LabelEncoder",
        "LinearClassifier",
        "LinearRegressor",
        "Normalizer",
        "OneHotEncoder",
        "SVMClassifier",
        "SVMRegressor",
        "Scaler",
        "TreeEnsemble",
        "TreeEnsembleClassifier",
        "TreeEnsembleRegressor",
        "ZipMap",
    )
)
