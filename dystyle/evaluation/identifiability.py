"""Are the components of styles found again? A toy of the theorem of identifiability, with known truth.

The theorem (Khemakhem et al. 2020, arXiv 1907.04809, theorems 1 and 2; Hyvarinen et al. 2019, arXiv
1805.08651, theorem 1): n components that are independent given the domain, mixed by any smooth invertible
function, come back one by one, each but for an invertible function of its own, if the domains' densities
differ in 2n independent ways, as those of 2n + 1 domains can. Here every component is normal with a mean and
a deviation of its own in each domain: 2n natural parameters, whose differences to the first domain's span
all directions.

What is trained is the simplest that the theorem is about: a flow from observations to styles, and the
`LatentStyleEncoder` as the density of styles in each domain, both by maximum likelihood.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.distributions import Normal
from tqdm import tqdm

from dystyle.translators.styles import LatentStyleEncoder

DRAWS = 1_000  # of a toy's domains, of which those that differ in the most ways are taken
ENOUGH, TOO_FEW = 0.95, 0.8  # targets: at least, with 2n + 1 domains; at most, with two
SHOWN = 1_500  # points of a scatter plot
HEADING = """\
# Identifiable components of styles

Made by `python -m dystyle.evaluate identifiability --json docs/benchmarks/identifiability.json --plots
docs/benchmarks`: {components} independent components, normal with a mean and a deviation of their own in each
domain, behind a smooth invertible mixing. All that training sees is {samples} mixed samples and their
domains. Every seed is another mixing, other domains and another start; all that were run are listed. The
first two domains of each toy differ in means alone, in all components. Figures are of {held_out} held-out
samples.

- mcc: mean correlation coefficient, Spearman's, of recovered and true components, matched one to one; within
  the domains, where true components are independent, then averaged. Targets: at least {enough} with 2n + 1
  domains, at most {too_few} with two. Turning five components at random leaves .74 on average
- pooled: the same over all domains at once, as the literature has it; means that differ between domains
  correlate all components, so it says less
- worst: the coefficient of the component found worst
- mixed: the mcc of the mixed samples themselves, with nothing recovered
- gap: nats per sample by which the density found falls short of the true one. Where both it and the mcc are
  small, other components explain the samples as well as the true ones: no better training can help
"""


@dataclass(frozen=True)
class IdentifiabilityConfig:
    """How well components come back, by the number of domains.

    Attributes:
        components: n. domains: how many are seen, a training for each number.
        seeds: toys, and trainings of each.
        samples: to learn from, of all domains together; held_out: to judge by.
        steps, batch, rate: of Adam, whose rate falls to zero by a cosine.
        layers, hidden: of the flow from observations to styles.
    """

    components: int = 5
    domains: tuple[int, ...] = (2, 11)
    seeds: int = 5
    samples: int = 100_000
    held_out: int = 5_000
    steps: int = 1_500
    batch: int = 512
    rate: float = 3e-3
    layers: int = 10
    hidden: int = 48


def variability(means: Tensor, scales: Tensor) -> Tensor:
    """The theorem's matrix (..., domains - 1, 2 n) of normal components: its rank has to be 2n.

    Rows are differences of natural parameters, m / v and -1 / 2v, to the first domain's, columns of norm 1.

    Args:
        means, scales: in each domain, (..., domains, n).
    """
    natural = torch.cat((means, torch.full_like(means, -0.5)), -1) / torch.cat((scales, scales), -1).square()
    return F.normalize(natural[..., 1:, :] - natural[..., :1, :], dim=-2)


class Toy:
    """Known components, and what is seen of them.

    The second domain has the deviations of the first. Whoever sees no other can turn the components around
    the line between both means, in units of the deviations, and nothing that is seen changes: the theorem's
    condition is not met, and this is what is lost by it.

    Attributes:
        means, scales: of the normal components in each domain, (domains, n): -2 to 2, and 0.25 to 1.5.
    """

    def __init__(self, components: int, domains: int, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self._turns = torch.linalg.qr(torch.randn(2, components, components, generator=self._random))[0]
        place, width = torch.rand(2, DRAWS, domains, components, generator=self._random)
        means, scales = 4 * place - 2, 0.25 * 6**width
        scales[:, 1] = scales[:, 0]
        # Nearly dependent domains would need samples without number: the best of some draws.
        best = torch.linalg.cond(variability(means, scales)).argmin()
        self.means, self.scales = means[best], scales[best]

    def mix(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Components (b, n) -> observations (b, n) and log |det| of the Jacobian (b,).

        Two rotations, and between them a bend of every component whose slope goes from 0.2 to 1.4.
        """
        inner, outer = self._turns
        turned = s @ inner
        bent = 0.2 * turned + 0.6 * F.softplus(2 * turned)
        return bent @ outer, (0.2 + 1.2 * (2 * turned).sigmoid()).log().sum(1)

    def draw(self, count: int, domains: int) -> tuple[Tensor, Tensor]:
        """Components (count, n) of the first `domains` domains, and the numbers of their domains (count,)."""
        u = torch.arange(count) % domains
        noise = torch.randn(count, self.means.shape[1], generator=self._random)
        return self.means[u] + self.scales[u] * noise, u

    def log_density(self, s: Tensor, u: Tensor) -> Tensor:
        """The true log density (b,) of what is observed of s (b, n) in the domains u (b,)."""
        return Normal(self.means[u], self.scales[u]).log_prob(s).sum(1) - self.mix(s)[1]


class Coupling(nn.Module):
    """A linear map, then half of the components scaled and shifted as the others say (RealNVP, Glow)."""

    def __init__(self, components: int, hidden: int) -> None:
        super().__init__()
        self.kept = components // 2
        self.turn = nn.Parameter(torch.linalg.qr(torch.randn(components, components))[0])
        last = nn.Linear(hidden, 2 * (components - self.kept))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(
            nn.Linear(self.kept, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (b, n) -> y (b, n) and log |det| of the Jacobian (b,)."""
        kept, changed = (x @ self.turn).tensor_split((self.kept,), 1)
        log_scale, shift = self.net(kept).chunk(2, 1)
        log_scale = 2 * (log_scale / 2).tanh()  # far from where the exponential overflows
        y = torch.cat((kept, changed * log_scale.exp() + shift), 1)
        return y, log_scale.sum(1) + self.turn.slogdet()[1]


class Model(nn.Module):
    """A flow from observations to styles, with the density of styles in each domain.

    Args:
        x: (b, n) observations, whose mean and deviation become 0 and 1 before the flow.
    """

    def __init__(self, x: Tensor, domains: int, layers: int, hidden: int) -> None:
        super().__init__()
        self.mean, self.scale = x.mean(0), x.std(0)
        self.layers = nn.ModuleList(Coupling(x.shape[1], hidden) for _ in range(layers))
        self.domains, self.styles = domains, LatentStyleEncoder(x.shape[1], domains)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Observations (b, n) -> styles (b, n) and log |det| of the Jacobian (b,)."""
        x, change = (x - self.mean) / self.scale, -self.scale.log().sum()
        for layer in self.layers:
            x, more = layer(x)
            change = change + more
        return x, change

    def log_density(self, x: Tensor, u: Tensor) -> Tensor:
        """log p(x | u) (b,) of observations (b, n) in the domains u (b,): change of variables."""
        s, change = self.encode(x)
        return self.styles.log_density(s, F.one_hot(u, self.domains).float()).sum(1) + change


def train(config: IdentifiabilityConfig, toy: Toy, domains: int, seed: int) -> Model:
    """A model of the toy's first `domains` domains, by maximum likelihood."""
    s, u = toy.draw(config.samples, domains)
    x = toy.mix(s)[0]
    with torch.random.fork_rng():
        torch.manual_seed(1_000_000 + seed)  # not the numbers of the toy again
        model = Model(x, domains, config.layers, config.hidden)
        optimiser = torch.optim.Adam(model.parameters(), config.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
        for _ in tqdm(range(config.steps), desc=f"{domains} domains, seed {seed}", mininterval=10):
            chosen = torch.randint(len(x), (config.batch,))
            loss = -model.log_density(x[chosen], u[chosen]).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            schedule.step()
    return model.requires_grad_(False)


def correlations(true: np.ndarray, found: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spearman's correlation of each true component with the found one that is matched to it.

    Args:
        true, found: (b, n). groups: (b,) numbers of domains; coefficients are means over them.

    Returns:
        Coefficients (n,), signs included, and the matched columns of `found` (n,): the matching with the
        largest sum of absolute values.
    """
    n = true.shape[1]
    each = [spearmanr(true[groups == g], found[groups == g]).statistic[:n, n:] for g in np.unique(groups)]
    mean = np.mean(each, 0)
    rows, columns = linear_sum_assignment(-np.abs(mean))
    return mean[rows, columns], columns


def measure(config: IdentifiabilityConfig, domains: int, seed: int) -> tuple[dict, tuple[np.ndarray, ...]]:
    """Train on one toy and judge on held-out samples.

    Returns:
        Figures, and the samples: true and matched found components (b, n), the latter with positive
        correlations, and domains (b,).
    """
    started = time.perf_counter()
    toy = Toy(config.components, max(config.domains), seed)
    model = train(config, toy, domains, seed)
    s, u = toy.draw(config.held_out, domains)
    x = toy.mix(s)[0]
    gap = float((toy.log_density(s, u) - model.log_density(x, u)).mean())
    true, found, seen, groups = (t.numpy() for t in (s, model.encode(x)[0], x, u))
    each, columns = correlations(true, found, groups)
    together = np.zeros_like(groups)
    figures = {
        "domains": domains,
        "seed": seed,
        "mcc": float(np.abs(each).mean()),
        "pooled": float(np.abs(correlations(true, found, together)[0]).mean()),
        "worst": float(np.abs(each).min()),
        "mixed": float(np.abs(correlations(true, seen, groups)[0]).mean()),
        "gap": gap,
        "seconds": time.perf_counter() - started,
    }
    return figures, (true, found[:, columns] * np.sign(each), groups)


def evaluate_identifiability(config: IdentifiabilityConfig, plots: Path | None = None) -> dict:
    """Mean correlation of recovered and true components, by the number of domains and seed.

    Args:
        plots: folder to write `identifiability.png` to, which shows the samples of the first seed.
    """
    runs, shown = [], {}
    for seed in range(config.seeds):
        for domains in config.domains:
            figures, samples = measure(config, domains, seed)
            runs.append(figures)
            shown.setdefault(domains, samples)
    result = asdict(config) | {"runs": runs}
    if plots is not None:
        plot(result, shown, plots / "identifiability.png")
    return result


def table(result: dict) -> str:
    """The result as Markdown."""
    columns = ("mcc", "pooled", "worst", "mixed", "gap")
    lines = [
        HEADING.format(**result, enough=ENOUGH, too_few=TOO_FEW),
        f"| domains | seed | {' | '.join(columns)} | seconds |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for domains in result["domains"]:
        runs = [run for run in result["runs"] if run["domains"] == domains]
        for run in runs:
            cells = [f"{run[column]:.3f}" for column in columns]
            lines.append(f"| {domains} | {run['seed']} | {' | '.join(cells)} | {run['seconds']:.0f} |")
        means = [f"{np.mean([run[column] for run in runs]):.3f}" for column in columns]
        lines.append(f"| {domains} | mean | {' | '.join(means)} | |")
    return "\n".join(lines)


def plot(result: dict, shown: dict[int, tuple[np.ndarray, ...]], path: Path) -> None:
    """Scatter plots of found over true, a row for each number of domains; the mcc of all seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows, n = len(shown), result["components"]
    figure = pyplot.figure(figsize=(2.6 * n + 4, 2.9 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, n + 1, width_ratios=[1] * n + [1.4])
    for row, (domains, (true, found, groups)) in enumerate(shown.items()):
        each = correlations(true, found, groups)[0]
        for column in range(n):
            ax = figure.add_subplot(grid[row, column])
            ax.scatter(true[:SHOWN, column], found[:SHOWN, column], 3, groups[:SHOWN], cmap="tab20")
            ax.set_title(f"component {column + 1}: {each[column]:.2f}", fontsize=10)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_xlabel("true")
            ax.set_ylabel(f"{domains} domains\n\nfound" if column == 0 else "found")
    figure.suptitle(
        "Held-out samples of the first seed: components found, over the true ones; colours are domains"
    )
    ax = figure.add_subplot(grid[:, n])
    for index, domains in enumerate(shown):
        values = [run["mcc"] for run in result["runs"] if run["domains"] == domains]
        ax.scatter(np.linspace(index - 0.15, index + 0.15, len(values)), values, zorder=2)
    ax.axhline(ENOUGH, color="grey", linestyle="--", label=f"target of 2n + 1 domains: at least {ENOUGH}")
    ax.axhline(TOO_FEW, color="grey", linestyle=":", label=f"target of two domains: at most {TOO_FEW}")
    ax.set_xticks(range(rows), [f"{domains} domains" for domains in shown])
    ax.set_xlim(-0.5, rows - 0.5)
    ax.set_ylim(0, 1.02)
    ax.set_title("mean correlation, every seed", fontsize=10)
    ax.legend(loc="lower center", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
