"""What each stored name means: unit, nulls, interval and the section of docs/methods.md that defines it.

`docs/metrics.md` is made of these tables, and a test holds them to the rows that a run stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rtdyn.names import BELOW, DOMAINS, GROUPED, LAYERS, MATCHED, PSEUDO_CLASS, RANDOM, SELECTED

REWIRED, PERMUTED, SHAPE = "rewired", "permuted", "shape"
SETS = (RANDOM, MATCHED, SELECTED)
NATS, LOG, SHARE, COUNT, RANK, NUMBER, P = "nats", "ln units", "share", "count", "rank", "number", "p-value"


@dataclass(frozen=True)
class Definition:
    """A metric or a column by its name, as it is stored."""

    name: str
    unit: str
    """`number` where it has none."""
    meaning: str
    section: str
    """Of docs/methods.md, as it is cited: 3 or 3(d)."""
    nulls: tuple[str, ...] = ()
    """Nulls that its rows may name."""
    interval: bool = False
    """Whether its rows may have a 95 % interval."""
    endings: tuple[str, ...] = ("",)
    """What the stored name may add to `name`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that it defines."""
        return tuple(self.name + ending for ending in self.endings)


_AT_COMMON = ("", "_common")
_BELOW_AT_COMMON = (BELOW, f"{BELOW}_common")
_SIGNED_AND_ABS = ("", "_abs")
_INPUTS = ("", "_gate", "_up")
_MATRICES = ("_in", "_gate", "_up", "_out")
_SHAPES = ("half_normal", "lognormal", "pareto")

# fmt: off
METRICS: dict[str, tuple[Definition, ...]] = {
    "capture": (Definition("loss", NATS, "mean loss of the unchanged model on the class's targets", "2", interval=True),),
    "ablation": (
        Definition("influence_mean", NATS, "mean influence of all neurons", "2", interval=True),
        Definition("influence_max", NATS, "influence of the most influential neuron, corrected", "3(b)", interval=True),
        Definition("influence_top_share", SHARE, "part of the summed influence that the most influential 1 % have, corrected", "3(b)", interval=True),
        Definition("boosting_neurons", COUNT, "neurons that clearly help", "2"),
        Definition("suppressing_neurons", COUNT, "neurons that clearly hurt", "2"),
        Definition("error_bound_max", NATS, "largest error bound of any neuron's mean", "2(b)"),
        Definition("refined_share", SHARE, "pairs of position and neuron that were summed over the whole vocabulary", "2(b)"),
    ),
    "regimes": (
        Definition("r1", RANK, "last rank of the plateau, corrected", "3(b)", interval=True, endings=("", "_plain")),
        Definition("r2", RANK, "last rank of the power law, corrected", "3(b)", interval=True, endings=("", "_plain")),
        Definition("kappa", NUMBER, "exponent κ of the power law, corrected", "3(b)", interval=True, endings=("", "_plain")),
        Definition("excess", LOG, "how far the top lies above the extended power law, corrected", "3(b)", interval=True, endings=("", "_plain")),
        Definition("decay_slope", NUMBER, "slope of the rapid decay, d log A / d log rank, corrected", "3(b)", interval=True, endings=("", "_plain")),
        Definition("plateau_fraction", SHARE, "neurons in the plateau, r1 / F, corrected", "3(b)", interval=True),
        Definition("last", RANK, "last uncensored rank", "3"),
        Definition("beta", LOG, "log A of the power law at rank 1", "3"),
        Definition("plateau_slope", NUMBER, "slope of the plateau, d log A / d log rank", "3"),
        Definition("plateau_intercept", LOG, "log A of the plateau's line at rank 1", "3"),
        Definition("plateau_mean", LOG, "weighted mean of log A over the plateau", "3"),
        Definition("gain_over_one", SHARE, "part of a single line's Huber loss that three segments remove", "3"),
        Definition("gain_over_two", SHARE, "part of the best two segments' Huber loss that three remove", "3"),
        Definition("plateau_size", COUNT, "neurons in the plateau of the fit as it is", "3"),
        Definition("powerlaw_size", COUNT, "neurons in the power law", "3"),
        Definition("decay_size", COUNT, "neurons in the rapid decay", "3"),
        Definition("powerlaw_fraction", SHARE, "neurons in the power law", "3"),
        Definition("decay_fraction", SHARE, "neurons in the rapid decay", "3"),
        Definition("raised", "1 or 0", "whether the top lies above the extended power law", "3"),
        Definition("censored", COUNT, "neurons left out of the fit, their influence being within its error", "3"),
        Definition("paper_code_r1", RANK, "fixed end of the plateau, at log rank 3.5", "3"),
        Definition("paper_code_r2", RANK, "fixed end of the power law, at log rank 5.5", "3"),
        Definition("paper_code_slope", NUMBER, "slope of one least-squares line over all uncensored ranks", "3"),
        Definition("paper_code_intercept", LOG, "log A of that line at rank 1", "3"),
        Definition("paper_code_plateau_deviation", LOG, "mean of log A minus that line over ranks up to r1", "3"),
        Definition("paper_code_decay_deviation", LOG, "the same over ranks above r2", "3"),
        Definition("shape_statistic", "interquartile ranges of log A", "excess as it is, in units of the curve's spread", "3(a)", _SHAPES),
        Definition("shape_p_value", P, "largest p of the shape statistic among random numbers", "3(a)", (SHAPE,)),
        Definition("stable_plateau_size", COUNT, "neurons in the plateau in more than half of the halves of the text", "3(b)"),
        Definition("raised_share", SHARE, "halves of the text whose top is raised", "3(b)"),
        Definition("no_fit_share", SHARE, "halves of the text whose curve has no fit", "3(b)"),
        Definition("tail_alpha", NUMBER, "density exponent of the power law in the tail of A", "3(c)"),
        Definition("tail_size", COUNT, "neurons in that tail", "3(c)"),
        Definition("power_law_over_lognormal", "difference of log likelihood", "power law against lognormal in the tail; its p is in `p_value`", "3(c)"),
        Definition("truncated_over_lognormal", "difference of log likelihood", "truncated power law against lognormal; its p is in `p_value`", "3(c)"),
        Definition("power_law_over_truncated", "difference of log likelihood", "power law against truncated power law; its p is in `p_value`", "3(c)"),
        Definition("contrast_excess", LOG, "excess of the rare class's curve with nothing censored", "3(d)", (PSEUDO_CLASS,)),
        Definition("contrast_kappa", NUMBER, "κ of that curve", "3(d)", (PSEUDO_CLASS,)),
        Definition("contrast_r1", RANK, "last rank of that curve's plateau", "3(d)", (PSEUDO_CLASS,)),
        Definition("contrast_plateau_fraction", SHARE, "neurons in that curve's plateau", "3(d)", (PSEUDO_CLASS,)),
        Definition("contrast_shape_statistic", "interquartile ranges of log A", "shape statistic of that curve", "3(d)", (PSEUDO_CLASS,)),
    ),
    "groups": (
        Definition("size", COUNT, "neurons of the group, mean of both halves' choices", "4"),
        Definition("matched_own_share", SHARE, "members of the group's matched sets that are its own", "4"),
    ),
    "dimensionality": (
        Definition("d_eff", COUNT, "components that hold 95 % of the variance of the group's activations", "5", SETS),
        Definition("d_eff_share", SHARE, "d_eff by the number of neurons", "5", SETS),
        Definition("participation_ratio", NUMBER, "(Σλ)² / Σλ² of the same eigenvalues", "5", SETS),
        Definition("participation_ratio_unbiased", NUMBER, "the same without what few positions take from it", "5", SETS),
    ),
    "modularity": (
        Definition("segregation_q", "Q", "modularity of the layer's graph cut into the group and the rest", "6", SETS),
        Definition("inside_share", SHARE, "edges with an end in the group that have both ends there", "6", SETS),
        Definition("inside_weight_share", SHARE, "the same of the edges' weights", "6", SETS),
        Definition("correlation_within", "Pearson r", "mean signed correlation of pairs inside the group", "6", SETS),
        Definition("correlation_across", "Pearson r", "mean signed correlation of a neuron inside and one outside", "6", SETS),
        Definition("q_excess", "Q", "Louvain's modularity of the group's own graph at equal numbers of edges", "6", SETS),
        Definition("q_excess_edges", COUNT, "edges at which q_excess compares, the smaller half's", "6"),
        Definition("q_threshold", "Q", "Louvain's modularity of the group's own graph, edges of |r| ≥ 0.3", "6", (REWIRED, PERMUTED)),
        Definition("q_paper_code", "Q", "the same with every pair as an edge", "6", (REWIRED, PERMUTED)),
    ),
    "routing": (
        Definition("matched_positions", COUNT, "rare positions that are compared with common ones at the same places", "7"),
        Definition("profile_r", "Pearson r", "correlation of rare and common attention profiles without their noise", "7", interval=True),
        Definition("profile_r_plain", "Pearson r", "the same correlation as it is", "7", (PSEUDO_CLASS,)),
        Definition("profile_r_without_bos", "Pearson r", "profile_r without the first token", "7", interval=True),
        Definition("profile_r_without_bos_plain", "Pearson r", "the same correlation as it is", "7", (PSEUDO_CLASS,)),
        Definition("gini_difference", "Gini", "mean Gini coefficient of attention, rare minus common", "7", (PSEUDO_CLASS,), True),
        Definition("bos_difference", SHARE, "mean attention to the first token, rare minus common", "7", (PSEUDO_CLASS,), True),
        Definition("head_effect_max", SHARE, "size of the strongest head's signed effect on the group's activations", "7", SETS, True, _AT_COMMON),
        Definition("layer_effect", SHARE, "signed effect of all heads of the layer at once", "7", SETS, True, _AT_COMMON),
        Definition("head_effect_signed", SHARE, "(Σ|a'| − Σ|a|) / Σ|a| of one ablated head", "7", endings=_AT_COMMON),
        Definition("head_effect_share", SHARE, "Σ|Δa| / Σ|a| of one ablated head", "7", endings=_AT_COMMON),
        Definition("head_effect_total", "activation", "Σ|Δa| of one ablated head", "7", endings=_AT_COMMON),
    ),
    "heavytail": (
        Definition("hill_alpha_tenth", NUMBER, "Hill's α of the input weights, k a tenth of the neurons", "8", SETS, True, _INPUTS),
        Definition("hill_alpha_half", NUMBER, "Hill's α, k half of the neurons", "8", SETS, True, _INPUTS),
        Definition("hill_alpha_least_ks", NUMBER, "Hill's α where the tail fits best; descriptive", "8", SETS, endings=_INPUTS),
        Definition("farms_hill_alpha_tenth", NUMBER, "Hill's α of square submatrices, k a tenth; descriptive", "8", endings=_INPUTS),
        Definition("farms_hill_alpha_half", NUMBER, "Hill's α of square submatrices, k half; descriptive", "8", endings=_INPUTS),
        Definition("farms_ww_alpha", NUMBER, "weightwatcher's fit to square submatrices; descriptive", "8", endings=_MATRICES),
        Definition("ww_alpha", NUMBER, "weightwatcher's alpha, a density exponent", "8", endings=_MATRICES),
        Definition("ww_alpha_weighted", NUMBER, "weightwatcher's alpha_weighted", "8", endings=_MATRICES),
        Definition("ww_stable_rank", NUMBER, "weightwatcher's stable rank", "8", endings=_MATRICES),
        Definition("ww_entropy", NUMBER, "weightwatcher's entropy of the singular values", "8", endings=_MATRICES),
    ),
    "mediation": (
        Definition("mediation", SHARE, "influence that vanishes when the unigram direction is held fixed", "2(c)", SETS),
        Definition("null_space_directions", COUNT, "singular directions that count as the unembedding's null space", "2(c)"),
        Definition("null_space_share", SHARE, "squared norm of the output rows in those directions", "2(c)", SETS),
        Definition("entropy", NATS, "mean entropy of the unchanged model's prediction", "2(c)", interval=True),
        Definition("kl_to_unigram", NATS, "mean KL divergence of the prediction from the unigram distribution", "2(c)", interval=True),
        Definition("entropy_change", NATS, "mean change of entropy where a neuron is ablated", "2(c)", SETS),
        Definition("kl_change", NATS, "mean change of that divergence where a neuron is ablated", "2(c)", SETS),
    ),
    LAYERS: (
        Definition("total_mean", NATS, "mean over a layer's neurons of the total influence, mean |Δ|", "11", interval=True),
        Definition("total_top_share", SHARE, "part of the summed total influence that the most influential 1 % have, corrected", "11", interval=True),
        Definition("total_rare_excess", NATS, "mean total influence on rare targets less that on common ones", "11", interval=True),
        Definition("direct_mean", NATS, "mean over the neurons of the direct influence, mean |Δ| along the residual stream alone", "11", interval=True),
        Definition("direct_share", SHARE, "part of the total effects, mean Δ, that is direct; later layers make the rest", "11", interval=True),
        Definition("first_order_pearson", "Pearson r", "first order with the exact effect, over neurons; `_abs` of mean |Δ|; an interval only where all were measured", "11", interval=True, endings=_SIGNED_AND_ABS),
        Definition("first_order_spearman", "Spearman ρ", "the same of ranks; its interval reckons with neurons that were not drawn", "11", interval=True, endings=_SIGNED_AND_ABS),
        Definition("first_order_slope", NUMBER, "least-squares slope of the exact effect on the first order; an interval only where all neurons were measured", "11", interval=True, endings=_SIGNED_AND_ABS),
        Definition("first_order_error", NATS, "what the first order errs by at most for 90 % of the neurons", "11", endings=_SIGNED_AND_ABS),
        Definition("missed_share", SHARE, "most influential neurons that the first order did not choose", "11", interval=True),
        Definition("sample_error", NATS, "median half-width of sampled neurons' 95 % intervals around their exact effect on this text", "11", endings=_SIGNED_AND_ABS),
        Definition("final_layer_share", SHARE, "the last layer's part of what all measured layers do to rare targets beyond common ones", "11", interval=True),
        Definition("r1", RANK, "last rank of the plateau of the layer's curve, corrected", "3(b)", interval=True),
        Definition("r2", RANK, "last rank of its power law, corrected", "3(b)", interval=True),
        Definition("kappa", NUMBER, "exponent κ of its power law, corrected", "3(b)", interval=True),
        Definition("excess", LOG, "how far its top lies above the extended power law, corrected", "3(b)", interval=True),
        Definition("decay_slope", NUMBER, "slope of its rapid decay, corrected", "3(b)", interval=True),
        Definition("plateau_fraction", SHARE, "neurons in its plateau, r1 / F, corrected", "3(b)", interval=True),
        Definition("shape_p_value", P, "largest p of its shape among random numbers", "3(a)", (SHAPE,)),
        Definition("curve_error", SHARE, "part of itself that an influence in the curve errs by at most where it was not measured, for 90 % of the random neurons", "11"),
        Definition("ranking_spearman", "Spearman ρ", "first order with the exact effect, over neurons, of the influence that ranks them", "11", interval=True),
        Definition("ranked_neurons", COUNT, "neurons that have a rank; none where the first order ranks too poorly", "11"),
        Definition("measured_neurons", COUNT, "neurons whose effect is exact on all windows", "11"),
        Definition("reruns", COUNT, "pairs of neuron and window that were run again", "11"),
        Definition("exact_overlap", SHARE, "members of `top` that the layer's ranks, exact where measured, choose on the same half too", "11"),
    ),
    DOMAINS: (
        Definition("rank_spearman", "Spearman ρ", "neurons' influence in the domain with that in the main text", "11", interval=True),
        Definition("rank_spearman_halves", "Spearman ρ", "the same of one half of the domain's text with the other", "11", interval=True),
    ),
}
"""By analysis."""

_OF_BELOW = (
    Definition("head_effect_max", SHARE, "size of the strongest signed effect of a head in the layer below the neurons' own", "7", SETS, True, _BELOW_AT_COMMON),
    Definition("layer_effect", SHARE, "signed effect of all heads of that layer at once", "7", SETS, True, _BELOW_AT_COMMON),
    Definition("head_effect_signed", SHARE, "(Σ|a'| − Σ|a|) / Σ|a| of one ablated head there", "7", endings=_BELOW_AT_COMMON),
    Definition("head_effect_share", SHARE, "Σ|Δa| / Σ|a| of one ablated head there", "7", endings=_BELOW_AT_COMMON),
    Definition("head_effect_total", "activation", "Σ|Δa| of one ablated head there", "7", endings=_BELOW_AT_COMMON),
)
_DIRECT = (
    Definition("direct_mediation", SHARE, "direct influence that vanishes when the unigram direction is held fixed", "2(c)", SETS),
    Definition("direct_entropy_change", NATS, "mean change of entropy by the direct effect", "2(c)", SETS),
    Definition("direct_kl_change", NATS, "mean change of the divergence from the unigram distribution by the direct effect", "2(c)", SETS),
)
LAYER_METRICS: dict[str, tuple[Definition, ...]] = {
    **{analysis: METRICS[analysis] for analysis in ("groups", *GROUPED)},
    "routing": (*(d for d in METRICS["routing"] if d.name != "matched_positions"), *_OF_BELOW),
    "mediation": (*(d for d in METRICS["mediation"] if d.name == "null_space_share"), *_DIRECT),
}
"""What `layers` has of each layer's groups, too, by analysis: most by the names of the last layer's."""
METRICS[LAYERS] += tuple(d for of in LAYER_METRICS.values() for d in of)

_BY_CLASS = ("_<class>",)
_RANKED = ("", "_<class>")

COLUMNS: dict[str, tuple[Definition, ...]] = {
    "metrics": (
        Definition("step", COUNT, "updates of training before the checkpoint was saved", "9"),
        Definition("tokens_seen", COUNT, "tokens trained on until then, where the suite says", "9"),
        Definition("analysis", "name", "analysis that measured the row", "2"),
        Definition("metric", "name", "what was measured", "2"),
        Definition("token_class", "name", "class of the targets that it is measured on", "1"),
        Definition("group", "name", "group of neurons that it belongs to", "4"),
        Definition("null", "name", "null that the row's null_mean, null_sd and p_value belong to", "4"),
        Definition("layer", "index", "layer, from 0", "2"),
        Definition("head", "index", "attention head, from 0", "7"),
        Definition("value", "the metric's", "the number; none where it is undefined", "2"),
        Definition("null_mean", "the metric's", "mean of the null", "4"),
        Definition("null_sd", "the metric's", "standard deviation of the null", "4"),
        Definition("p_value", P, "two-sided share of the null that lies as far out", "11"),
        Definition("ci_low", "the metric's", "lower end of the 95 % interval", "2"),
        Definition("ci_high", "the metric's", "upper end of the 95 % interval", "2"),
        Definition("n", COUNT, "positions, neurons, pairs or pseudo-classes that the value is over", "1"),
        Definition("clusters", COUNT, "independent pieces of text behind the interval", "2"),
        Definition("status", "name", "`ok`, `undefined`, or `at_edge`: as far or farther", "3"),
        Definition("reason", "text", "why there is no value, or no null", "3"),
    ),
    "neurons": (
        Definition("step", COUNT, "as above", "9"),
        Definition("layer", "index", "layer, from 0: the final one, and earlier ones where they were asked for", "2"),
        Definition("neuron", "index", "the neuron, from 0", "2"),
        Definition("delta", NATS, "mean Δ: above zero the neuron helps; of an earlier layer the total effect", "2", endings=_BY_CLASS),
        Definition("mean_abs", NATS, "influence, mean |Δ|", "2", endings=_BY_CLASS),
        Definition("se", NATS, "standard error of mean Δ", "2", endings=_BY_CLASS),
        Definition("se_abs", NATS, "standard error of mean |Δ|", "2", endings=_BY_CLASS),
        Definition("ci_low_abs", NATS, "lower end of the 95 % interval of mean |Δ|", "2", endings=_BY_CLASS),
        Definition("ci_high_abs", NATS, "upper end of the 95 % interval of mean |Δ|", "2", endings=_BY_CLASS),
        Definition("error_bound", NATS, "proven bound of the error of either mean", "2(b)", endings=_BY_CLASS),
        Definition("sign", "1, 0, −1", "whether the neuron clearly helps or hurts", "2", endings=_BY_CLASS),
        Definition("measured", "name", "`all windows`, or `sample`: whether an effect is exact or estimated", "11"),
        Definition("random", "true or false", "whether the neuron is one of those drawn at random, on which others are calibrated", "11"),
        Definition("sample_error", NATS, "earlier layers: half-width of the 95 % interval of mean Δ around its exact value on this text", "11", endings=_BY_CLASS),
        Definition("sample_error_abs", NATS, "the same of mean |Δ|", "11", endings=_BY_CLASS),
        Definition("first_order_delta", NATS, "earlier layers: mean Δ to first order", "11", endings=_BY_CLASS),
        Definition("first_order_mean_abs", NATS, "the same of mean |Δ|", "11", endings=_BY_CLASS),
        Definition("direct_delta", NATS, "earlier layers: mean Δ along the residual stream alone", "11", endings=_BY_CLASS),
        Definition("direct_mean_abs", NATS, "the same of mean |Δ|", "11", endings=_BY_CLASS),
        Definition("direct_error_bound", NATS, "proven bound of the error of either direct mean", "2(b)", endings=_BY_CLASS),
        Definition("rank", RANK, "place by influence, from 1; the rare class's has no ending", "3", endings=_RANKED),
        Definition("regime", "name", "plateau, powerlaw, decay or censored", "3", endings=_RANKED),
        Definition("stable_share", SHARE, "halves of the text in which the neuron lies in a raised plateau", "3(b)", endings=_RANKED),
        Definition("mean_activation", "activation", "mean over kept positions", "2"),
        Definition("sd_activation", "activation", "standard deviation over kept positions", "4"),
        Definition("positive_share", SHARE, "kept positions with an activation above zero, the firing rate", "4"),
        Definition("norm", "norm", "length of the output row", "2"),
        Definition("mean_abs_frozen", NATS, "mean |Δ| with the unigram direction held fixed", "2(c)", endings=_BY_CLASS),
        Definition("mediation", SHARE, "influence that vanishes then", "2(c)", endings=_BY_CLASS),
        Definition("se_mediation", SHARE, "its standard error", "2(c)", endings=_BY_CLASS),
        Definition("error_bound_mediation", SHARE, "its error bound", "2(c)", endings=_BY_CLASS),
        Definition("null_space_share", SHARE, "squared norm of the output row in the unembedding's null space", "2(c)"),
        Definition("entropy_change", NATS, "mean change of entropy where the neuron is ablated", "2(c)", endings=_BY_CLASS),
        Definition("kl_change", NATS, "mean change of the KL divergence from the unigram distribution", "2(c)", endings=_BY_CLASS),
        Definition("direct_mean_abs_frozen", NATS, "earlier layers: direct mean |Δ| with the unigram direction held fixed", "2(c)", endings=_BY_CLASS),
        Definition("direct_mediation", SHARE, "direct influence that vanishes then", "2(c)", endings=_BY_CLASS),
        Definition("direct_se_mediation", SHARE, "its standard error", "2(c)", endings=_BY_CLASS),
        Definition("direct_error_bound_mediation", SHARE, "its error bound", "2(c)", endings=_BY_CLASS),
        Definition("direct_entropy_change", NATS, "earlier layers: mean change of entropy by the direct effect", "2(c)", endings=_BY_CLASS),
        Definition("direct_kl_change", NATS, "the same of the KL divergence from the unigram distribution", "2(c)", endings=_BY_CLASS),
    ),
    "windows": (
        Definition("step", COUNT, "as above", "9"),
        Definition("kind", "name", "`window`, or `decile` of frequency", "2"),
        Definition("token_class", "name", "class of the targets", "1"),
        Definition("layer", "index", "the final layer", "2"),
        Definition("index", "index", "window or decile, from 0", "2"),
        Definition("neuron", "index", "the neuron, from 0", "2"),
        Definition("n", COUNT, "positions summed over", "2"),
        Definition("sum_delta", NATS, "Σ Δ", "2"),
        Definition("sum_abs_delta", NATS, "Σ |Δ|", "2"),
    ),
    "curves": (
        Definition("step", COUNT, "as above", "9"),
        Definition("kind", "name", "`pseudo_influence`, `attention`, `attention_first`, `eigenvalue`, `hill_alpha`, `selected_hill_alpha`", "3"),
        Definition("token_class", "name", "class of the targets", "1"),
        Definition("group", "name", "group whose eigenvalues these are, or Hill's α; none for the layer", "8"),
        Definition("half", "index", "half of the windows that chose the group", "4"),
        Definition("layer", "index", "layer, from 0", "7"),
        Definition("head", "index", "attention head, from 0", "7"),
        Definition("x", RANK, "rank, distance of the key, place of the eigenvalue, or eigenvalues in the tail", "7"),
        Definition("value", "the kind's", "influence in nats, attention, eigenvalue, or Hill's α", "7"),
        Definition("low", "the kind's", "lower end of the null's 95 % band, or of the interval of `hill_alpha`", "4"),
        Definition("high", "the kind's", "upper end of the null's 95 % band, or of the interval of `hill_alpha`", "4"),
        Definition("fit", "the kind's", "fitted Pareto tail", "8"),
    ),
    "domains": (Definition("domain", "name", "the further text that the row is of; all other columns are as in metrics/", "11"),),
    "domain_neurons": (
        Definition("step", COUNT, "as above", "9"),
        Definition("domain", "name", "the further text", "11"),
        Definition("layer", "index", "the final layer", "2"),
        Definition("neuron", "index", "the neuron, from 0", "2"),
        Definition("delta", NATS, "mean Δ on the domain", "2", endings=_BY_CLASS),
        Definition("mean_abs", NATS, "influence there, mean |Δ|", "2", endings=_BY_CLASS),
        Definition("se", NATS, "standard error of mean Δ", "2", endings=_BY_CLASS),
        Definition("se_abs", NATS, "standard error of mean |Δ|", "2", endings=_BY_CLASS),
    ),
}
"""By table."""
# fmt: on


def define(name: str, definitions: Sequence[Definition], classes: Sequence[str] = ()) -> Definition | None:
    """The definition of a stored name, None where there is none.

    classes: the run's token classes, whose names take the place of `<class>`.
    """
    for definition in definitions:
        for known in definition.names:
            if known == name or any(known.replace("<class>", of) == name for of in classes):
                return definition
    return None
