"""The rows of the comparison: the overrides that select each method, and the scores in the table."""

# method -> overrides of the experiment that select it
METHODS: dict[str, list[str]] = {
    "dense": ["encoder=dense", "completion=scatter"],
    "stp": ["encoder=stp"],
    "evit": ["encoder=evit"],
    "dynamicvit": ["encoder=dynamicvit"],
    "asvit": ["encoder=asvit"],
    "dtop": ["encoder=dtop", "encoder.reducer.head=fcn"],
    "tome": ["encoder=tome"],
    "cropr": ["encoder=cropr"],
    "random": ["encoder=random"],
    "minscore": ["encoder=minscore"],
    "identity": ["encoder=identity", "completion=scatter"],
}
WITHOUT_SSA = ["encoder.attention.ssa=null"]
WITHOUT_GRPE = ["encoder.attention.positions=null", "encoder.position_init=normal"]
WITHOUT_PRUNING = ["encoder.gate=null", "encoder.attention.dependencies=null"]
# the parts of APFormer, as in table IV of its paper: ssa is the baseline with SSA, and so on
PARTS: dict[str, list[str]] = {
    "baseline": [*WITHOUT_SSA, *WITHOUT_GRPE, *WITHOUT_PRUNING],
    "ssa": [*WITHOUT_GRPE, *WITHOUT_PRUNING],
    "grpe": [*WITHOUT_SSA, *WITHOUT_PRUNING],
    "pruning": [*WITHOUT_SSA, *WITHOUT_GRPE],
    "apformer-": WITHOUT_PRUNING,
    "apformer": [],
    "identity": ["encoder.transformer=false", *WITHOUT_SSA, *WITHOUT_GRPE, *WITHOUT_PRUNING],
}
TABLES = {"methods": METHODS, "apformer": PARTS}
DECODERS = {"methods": ["unetr_thin", "fcn"], "apformer": ["unet"]}
SCORES = {"methods": ("dice", "hd95"), "apformer": ("dice", "iou", "accuracy", "sensitivity", "specificity")}
# decoders that keep the predictions of tokens that exit early
CANVAS = ("fcn", "atm")
# method -> how it prunes in training; all other methods drop tokens
IN_TRAINING = {
    **dict.fromkeys(("dense", "identity", "baseline", "ssa", "grpe", "apformer-"), "-"),
    **dict.fromkeys(("dynamicvit", "asvit"), "masks"),
    **dict.fromkeys(("pruning", "apformer"), "drops rows"),
    "tome": "merges",
}
