//! The guard: which ranking may replace the plain one, judged on queries that it did not learn from.
//!
//! A candidate scores documents as `F = (1 - r) base + r u + w m + b [never clicked] + s z`, where the base is the plain
//! metric or `a e + (1 - a) n` of the two models, `u` the untrained click edges, `m` the memory and `z` the score of the
//! mean of a document's neighbours in the index.
//!
//! With groups `g` of like queries, `Y_c[g, h]` is the mean nDCG@10 of candidate `c`'s rankings for `g` by what was clicked
//! for `h`, and `own_c` the mean of `Y_c[g, g]`; 0 is the plain ranking. The clicks are permuted among the groups of a fold,
//! `P` times: `D_c(p) = mean_g (Y_c[g, p g] - Y_0[g, p g])` is what `c` gains where clicks do not belong to queries, with
//! mean `mu_c` and deviation `s_c`. A candidate is *eligible* if its gain `own_c - own_0` exceeds `2 + min(1, (50 / n)^2)` standard errors
//! over `n` groups and `z_c = (own_c - own_0 - mu_c) / s_c` exceeds the 99th percentile over permutations of the greatest
//! `(D_c(p) - mu_c) / s_c` of all candidates: that is how far the best of so many gets by chance (Westfall & Young 1993).
//! Of the eligible the one with the greatest gain less one error is taken; of those with at least 98% of its gain, the best
//! sum of both models, and instead of that one another which is better on never-clicked documents by more than two errors.
//! Smoothing (`s`, of either sign) is judged last, over the candidate so chosen, and must gain three standard errors: it
//! hurts most collections, and helps some clearly.
//!
//! Where the plain ranking itself agrees with the clicks no better than chance (`z_0 <= 4`, of `Y_0` alone, with the groups of
//! the strict rule), the clicks may be noise or the queries from another encoder: the [strict](Rule::STRICT) rule is applied.

#![forbid(unsafe_code)]

use super::memory::{Voters, best};
use crate::memory;
use crate::rng::stream;
use crate::threads;
use std::sync::LazyLock;

/// How deep rankings are judged.
pub const DEPTH: usize = 10;

const SHARES: [f32; 4] = [0.0, 0.5, 0.7, 1.0];
/// Weights of the memory that are tried over the plain metric.
const MEMORY: [f32; 8] = [0.05, 0.1, 0.15, 0.2, 0.35, 0.5, 1.0, 2.0];
/// And over what was learned besides.
const MEMORY_BESIDES: [f32; 4] = [0.05, 0.1, 0.2, 0.35];
/// Settings of the memory that are tried.
pub const VOTERS: [Voters; 6] = [
    Voters { neighbors: 20, width: 0.1 },
    Voters { neighbors: 5, width: 0.1 },
    Voters { neighbors: 20, width: 0.05 },
    Voters { neighbors: 20, width: 0.2 },
    Voters { neighbors: 60, width: 0.2 },
    Voters { neighbors: 60, width: 0.4 },
];
const COLD: [f32; 2] = [0.0, 0.01];
/// Gates of the untrained click edges that are tried.
pub const PULLS: [f32; 3] = [0.75, 1.5, 4.0];
/// Weights of the neighbours' mean that are tried.
const SMOOTH: [f32; 4] = [-0.3, -0.15, 0.15, 0.3];
/// Standard errors that smoothing must gain.
const SURE_OF_SMOOTH: f64 = 3.0;
/// Standard errors that a gain must exceed, over ever more groups.
const SURE: f64 = 2.0;
/// Groups of which, as of fewer, one more error is asked for. What queries teach grows with their number, and the error falls, so that of few
/// a great gain is more likely luck: rankings that gained 2 to 2.5 errors on 50 groups lost up to .016 on future queries; on
/// 150 none lost.
const FEW: f64 = 50.0;
/// Standard errors that are taken off a gain where candidates are compared.
const CAUTION: f64 = 1.0;
/// Deviations from chance that the plain ranking must have for the usual rule.
const AGREES: f64 = 4.0;
/// What share of the best gain may be given for never-clicked documents.
const EQUAL: f64 = 0.98;

/// Blocks of groups, of which each is judged by a candidate that the others chose.
const BLOCKS: usize = 8;

/// How strictly candidates are judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// The cosine from which on queries are in one group.
    pub alike: f32,
    /// Whether that cosine is taken around the mean of all queries.
    pub centred: bool,
    /// How often clicks are permuted.
    pub permutations: usize,
    /// Which share of the permutations must stay below.
    pub share: f64,
}

impl Rule {
    /// Where the plain ranking agrees with the clicks.
    pub const USUAL: Self = Self { alike: 0.95, centred: false, permutations: 200, share: 0.99 };
    /// Where it does not.
    pub const STRICT: Self = Self { alike: 0.8, centred: false, permutations: 1000, share: 0.999 };
    /// The same where that leaves too few groups: to some encoders nearly all queries are alike.
    pub const STRICT_CENTRED: Self = Self { centred: true, ..Self::STRICT };
}

/// A way to rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The share of the edge model among the two models; `None` for the plain metric.
    pub edge: Option<f32>,
    /// The weight of the memory.
    pub memory: f32,
    /// Which past queries vote, and how.
    pub voters: Voters,
    /// What never-clicked documents get on top.
    pub cold: f32,
    /// The share of the untrained click edges in the base.
    pub centroid: f32,
    /// The gate of the untrained click edges.
    pub pull: f32,
    /// The weight of the neighbours' mean, of either sign.
    pub smooth: f32,
}

impl Candidate {
    /// The plain metric alone.
    pub const PLAIN: Self = Self {
        edge: None,
        memory: 0.0,
        voters: VOTERS[0],
        cold: 0.0,
        centroid: 0.0,
        pull: PULLS[0],
        smooth: 0.0,
    };

    /// Those without training. The first is [`PLAIN`](Self::PLAIN).
    pub fn untrained() -> Vec<Self> {
        Self::over(&[None])
    }

    /// All that are tried on held-back queries but for [`smoothed`](Self::smoothed) ones; [`PLAIN`](Self::PLAIN) first.
    pub fn all() -> Vec<Self> {
        Self::over(&[None, Some(SHARES[0]), Some(SHARES[1]), Some(SHARES[2]), Some(SHARES[3])])
    }

    /// Every combination over these models.
    fn over(models: &[Option<f32>]) -> Vec<Self> {
        let mut bases = Vec::new();
        for &edge in models {
            bases.push(Self { edge, ..Self::PLAIN });
            bases.extend([PULLS[0], PULLS[2]].map(|pull| Self { edge, centroid: 0.5, pull, ..Self::PLAIN }));
        }
        bases.extend(PULLS.map(|pull| Self { centroid: 1.0, pull, ..Self::PLAIN }));
        let mut all = Vec::new();
        for base in bases {
            // The plain metric does not know which documents were clicked.
            let (weights, cold) = if base == Self::PLAIN {
                (&MEMORY[..], &COLD[..1])
            } else {
                (&MEMORY_BESIDES[..], &COLD[..])
            };
            let voted = VOTERS
                .iter()
                .flat_map(|&voters| weights.iter().map(move |&memory| Self { memory, voters, ..base }));
            for candidate in std::iter::once(base).chain(voted) {
                all.extend(cold.iter().map(|&cold| Self { cold, ..candidate }));
            }
        }
        all
    }

    /// This candidate with each weight of the neighbours' mean.
    pub fn smoothed(self) -> Vec<Self> {
        SMOOTH.iter().map(|&smooth| Self { smooth, ..self }).collect()
    }

    /// Whether both models take part: their sum is better than either on most collections, and depends less on chance.
    fn is_sum(&self) -> bool {
        self.edge.is_some_and(|share| share > 0.0 && share < 1.0)
    }

    /// What takes part, in words.
    pub fn describe(&self) -> String {
        let base = match self.edge {
            None => "plain metric".to_string(),
            Some(0.0) => "query adapter".to_string(),
            Some(1.0) => "adapter with click edges".to_string(),
            Some(share) => format!("{share} adapter with click edges + {:.1} query adapter", 1.0 - share),
        };
        let base = if self.centroid == 1.0 {
            format!("untrained click edges of gate {}", self.pull)
        } else if self.centroid > 0.0 {
            let rest = 1.0 - self.centroid;
            format!("{} untrained click edges of gate {} + {rest} ({base})", self.centroid, self.pull)
        } else {
            base
        };
        let Voters { neighbors, width } = self.voters;
        let memory = if self.memory > 0.0 {
            format!(" + {} memory of {neighbors} past queries of width {width}", self.memory)
        } else {
            String::new()
        };
        let cold = if self.cold > 0.0 { format!(" + {} if never clicked", self.cold) } else { String::new() };
        let smooth =
            if self.smooth == 0.0 { String::new() } else { format!(" {:+} neighbours", self.smooth) };
        base + &memory + &cold + &smooth
    }

    /// The family that a report names.
    pub fn family(&self) -> &'static str {
        if self.centroid > 0.0 {
            let trained = self.edge.is_some() && self.centroid < 1.0;
            return match (trained, self.memory > 0.0) {
                (true, _) => "sum+centroid",
                (false, true) => "centroid+memory",
                (false, false) => "centroid",
            };
        }
        match (self.edge, self.memory > 0.0) {
            (None, false) => "plain",
            (None, true) => "memory",
            (Some(0.0), false) => "adapter",
            (Some(0.0), true) => "adapter+memory",
            (Some(1.0), false) => "edges",
            (Some(1.0), true) => "edges+memory",
            (_, false) => "sum",
            (_, true) => "sum+memory",
        }
    }
}

/// The documents that any candidate may rank among the first, for one held-back query.
#[derive(Clone, Debug, Default)]
pub struct Shortlist {
    /// Ascending.
    pub docs: Vec<u32>,
    /// Scores of the plain metric.
    pub plain: Vec<f32>,
    /// Scores of the query adapter.
    pub adapter: Vec<f32>,
    /// Scores of the adapter with click edges.
    pub edge: Vec<f32>,
    /// Votes under each of [`VOTERS`].
    pub votes: Vec<Vec<f32>>,
    /// 1 for never-clicked documents.
    pub cold: Vec<f32>,
    /// Scores of the untrained click edges with each of [`PULLS`].
    pub pulled: Vec<Vec<f32>>,
    /// Scores of the neighbours' means.
    pub neighbors: Vec<f32>,
}

impl Shortlist {
    /// The places of the first documents under `candidate`.
    fn first(&self, candidate: Candidate, scores: &mut Vec<f32>) -> Vec<(f32, u32)> {
        let Candidate { edge, memory, voters, cold, centroid, pull, smooth } = candidate;
        scores.clear();
        match edge {
            None => scores.extend_from_slice(&self.plain),
            Some(share) => {
                let pairs = self.edge.iter().zip(&self.adapter);
                scores.extend(pairs.map(|(edge, adapter)| share * edge + (1.0 - share) * adapter));
            }
        }
        if centroid > 0.0 {
            let at = PULLS.iter().position(|&other| other == pull).expect("one that is tried");
            let pairs = scores.iter_mut().zip(&self.pulled[at]);
            pairs.for_each(|(score, pulled)| *score = (1.0 - centroid) * *score + centroid * pulled);
        }
        let mut add = |weight: f32, values: &[f32]| {
            if weight != 0.0 {
                scores.iter_mut().zip(values).for_each(|(score, value)| *score += weight * value);
            }
        };
        if memory > 0.0 {
            let at = VOTERS.iter().position(|&other| other == voters).expect("one that is tried");
            add(memory, &self.votes[at]);
        }
        add(cold, &self.cold);
        add(smooth, &self.neighbors);
        best(scores, DEPTH, None)
    }

    /// The first documents under `candidate`.
    pub fn ranking(&self, candidate: Candidate) -> Vec<u32> {
        let first = self.first(candidate, &mut Vec::new());
        memory::collect(first.into_iter().map(|(_, at)| self.docs[at as usize]))
    }
}

/// A document with its grade.
pub type Graded = (u32, f32);

/// A held-back query.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What may be ranked.
    pub list: Shortlist,
    /// The number of its group in the fold.
    pub group: u32,
}

/// What the queries of a group were clicked for.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// All of it.
    pub relevant: Vec<Graded>,
    /// Of that, the documents that nobody else clicked.
    pub cold: Vec<Graded>,
}

impl Judged {
    /// nDCG@10 by documents that nobody else clicked; where none of these was clicked more than by chance, as a share of what
    /// the best ranking of all has. So chance clicks come to nothing on average, as they do in all.
    fn cold_ndcg(&self, ranking: &[u32]) -> f64 {
        let best =
            [&self.cold, &self.relevant].map(|judged| ideal(judged)).into_iter().find(|&ideal| ideal > 0.0);
        best.map_or(0.0, |ideal| gained(ranking, &self.cold) / ideal)
    }
}

/// The held-back queries of one fold, group by group.
#[derive(Debug)]
pub struct Part {
    trials: Vec<Trial>,
    groups: Vec<Judged>,
    /// Per trial and place in its list, where the groups that judge the document stand in `gains`.
    judges: Vec<Vec<(u32, u32)>>,
    /// A group, and what a document is worth to it in the first place.
    gains: Vec<(u32, f64)>,
    /// Per group, which group's clicks it gets under each permutation.
    permuted: Vec<Vec<u32>>,
}

impl Part {
    /// Of trials, ordered by their groups; `number` is that of the fold.
    pub fn new(trials: Vec<Trial>, groups: Vec<Judged>, permutations: usize, seed: u64, number: u64) -> Self {
        let mut by_doc: Vec<(u32, u32, f64)> = Vec::new();
        for (group, judged) in groups.iter().enumerate() {
            let ideal = ideal(&judged.relevant);
            // A group whose clicks are all taken off judges nothing.
            for &(doc, grade) in judged.relevant.iter().filter(|_| ideal > 0.0) {
                memory::push(&mut by_doc, (doc, group as u32, f64::from(grade) / ideal));
            }
        }
        by_doc.sort_unstable_by_key(|&(doc, group, _)| (doc, group));
        let gains = memory::collect(by_doc.iter().map(|&(_, group, gain)| (group, gain)));
        let places = |doc: u32| {
            let first = by_doc.partition_point(|gain| gain.0 < doc);
            (first as u32, (first + by_doc[first..].partition_point(|gain| gain.0 == doc)) as u32)
        };
        let judges = memory::collect(
            trials.iter().map(|trial| memory::collect(trial.list.docs.iter().map(|&doc| places(doc)))),
        );
        let mut permuted = memory::collect(groups.iter().map(|_| memory::with_capacity(permutations)));
        let mut rng = stream(seed, "permutations", number);
        let mut order: Vec<u32> = memory::collect(0..groups.len() as u32);
        for _ in 0..permutations {
            rng.shuffle(&mut order);
            permuted.iter_mut().zip(&order).for_each(|(to, &from): (&mut Vec<u32>, &u32)| to.push(from));
        }
        Self { trials, groups, judges, gains, permuted }
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }
}

/// nDCG@10 of one candidate.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Per group, by its own clicks.
    pub own: Vec<f64>,
    /// Per group, by those of its clicks that lead to documents never clicked otherwise (NaN without).
    pub cold: Vec<f64>,
    /// Per permutation, the mean over groups by the clicks that they get.
    pub permuted: Vec<f64>,
}

impl Trace {
    /// Of a candidate over all folds.
    fn of(parts: &[Part], candidate: Candidate) -> Self {
        let permutations = parts.first().and_then(|part| part.permuted.first()).map_or(0, Vec::len);
        let mut trace = Self { permuted: memory::vec![0.0; permutations], ..Self::default() };
        let (mut scores, mut row, mut touched) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            row.resize(row.len().max(part.groups()), 0.0f64);
            let pairs: Vec<(&Trial, &Vec<(u32, u32)>)> = part.trials.iter().zip(&part.judges).collect();
            for members in pairs.chunk_by(|a, b| a.0.group == b.0.group) {
                let group = members[0].0.group as usize;
                let (mut cold, judged) = (0.0, &part.groups[group]);
                for (trial, judges) in members {
                    let first = trial.list.first(candidate, &mut scores);
                    for ((_, at), discount) in first.iter().zip(DISCOUNTS.iter()) {
                        let (start, end) = judges[*at as usize];
                        for &(other, gain) in &part.gains[start as usize..end as usize] {
                            row[other as usize] += gain * discount;
                            memory::push(&mut touched, other);
                        }
                    }
                    if !judged.cold.is_empty() {
                        let ranking: Vec<u32> =
                            first.iter().map(|&(_, at)| trial.list.docs[at as usize]).collect();
                        cold += judged.cold_ndcg(&ranking);
                    }
                }
                let count = members.len() as f64;
                memory::push(&mut trace.own, row[group] / count);
                memory::push(&mut trace.cold, if judged.cold.is_empty() { f64::NAN } else { cold / count });
                for (sum, &other) in trace.permuted.iter_mut().zip(&part.permuted[group]) {
                    *sum += row[other as usize] / count;
                }
                touched.drain(..).for_each(|other| row[other as usize] = 0.0);
            }
        }
        let groups = trace.own.len().max(1) as f64;
        trace.permuted.iter_mut().for_each(|sum| *sum /= groups);
        trace
    }

    /// The mean by the groups' own clicks.
    pub fn mean(&self) -> f64 {
        Estimate::of(self.own.iter().copied()).mean
    }

    /// By how many deviations this ranking agrees better with the clicks than with permuted ones.
    pub fn agreement(&self) -> f64 {
        let chance = Estimate::of(self.permuted.iter().copied());
        let deviation = chance.error * (self.permuted.len() as f64).sqrt();
        if deviation > 0.0 { (self.mean() - chance.mean) / deviation } else { 0.0 }
    }

    /// Whether the usual rule is strict enough.
    pub fn agrees(&self) -> bool {
        self.agreement() > AGREES
    }
}

/// nDCG of a ranking as [`crate::metrics::ndcg`], for rankings too many to build tables for; NaN if nothing is relevant. Negative
/// grades are taken off; the best ranking has none.
pub fn ndcg(ranking: &[u32], relevant: &[Graded]) -> f64 {
    let ideal = ideal(relevant);
    if ideal > 0.0 { gained(ranking, relevant) / ideal } else { f64::NAN }
}

/// The discounted gain of a ranking.
fn gained(ranking: &[u32], relevant: &[Graded]) -> f64 {
    let gain = |item: &u32| relevant.iter().find(|(other, _)| other == item).map_or(0.0, |(_, grade)| *grade);
    discounted(ranking.iter().map(gain))
}

/// The discounted gain of the best ranking.
fn ideal(relevant: &[Graded]) -> f64 {
    let mut grades: Vec<f32> = relevant.iter().map(|(_, grade)| grade.max(0.0)).collect();
    grades.sort_unstable_by(|a, b| b.total_cmp(a));
    discounted(grades.into_iter())
}

fn discounted(gains: impl Iterator<Item = f32>) -> f64 {
    gains.zip(DISCOUNTS.iter()).map(|(gain, discount)| f64::from(gain) * discount).sum()
}

/// `1 / log2(place + 1)` for places counted from 1.
static DISCOUNTS: LazyLock<[f64; DEPTH]> =
    LazyLock::new(|| std::array::from_fn(|place| 1.0 / ((place + 2) as f64).log2()));

/// Runs candidates over the held-back queries.
pub fn trace(parts: &[Part], candidates: &[Candidate]) -> Vec<Trace> {
    threads::map(candidates.len(), |number| Trace::of(parts, candidates[number]))
}

/// A mean with its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
}

impl Estimate {
    /// Of values, NaN left out.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let values: Vec<f64> = memory::collect(values.filter(|value| !value.is_nan()));
        let count = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        Self { mean, error: (variance / count).sqrt() }
    }

    /// Of the differences of pairs.
    pub fn of_pairs(before: &[f64], after: &[f64]) -> Self {
        Self::of(after.iter().zip(before).map(|(after, before)| after - before))
    }

    /// Whether it is above zero by more than so many errors.
    pub fn exceeds(&self, errors: f64) -> bool {
        self.mean > 1e-9 && self.mean > errors * self.error
    }

    /// What candidates are compared by: they are judged on the same queries, so most of an error is common to all.
    fn least(&self) -> f64 {
        self.mean - CAUTION * self.error
    }
}

/// What all candidates gain over a ranking, and which of it is beyond doubt.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The paired differences.
    pub gains: Vec<Estimate>,
    /// By how many deviations each gains more than with permuted clicks.
    pub agreements: Vec<f64>,
    /// What the best of all reaches by chance.
    pub bar: f64,
    /// Standard errors that a gain must exceed.
    pub sure: f64,
}

impl Verdict {
    /// Of traces over a baseline.
    pub fn new(baseline: &Trace, traces: &[Trace], rule: Rule) -> Self {
        let gains: Vec<Estimate> =
            memory::collect(traces.iter().map(|trace| Estimate::of_pairs(&baseline.own, &trace.own)));
        let mut agreements = memory::vec![f64::NEG_INFINITY; traces.len()];
        let mut greatest = memory::vec![f64::NEG_INFINITY; baseline.permuted.len()];
        for ((trace, gain), agreement) in traces.iter().zip(&gains).zip(&mut agreements) {
            let by_chance: Vec<f64> =
                memory::collect(trace.permuted.iter().zip(&baseline.permuted).map(|(a, b)| a - b));
            let chance = Estimate::of(by_chance.iter().copied());
            let deviation = chance.error * (by_chance.len() as f64).sqrt();
            if deviation > 1e-12 {
                *agreement = (gain.mean - chance.mean) / deviation;
                for (most, value) in greatest.iter_mut().zip(&by_chance) {
                    *most = most.max((value - chance.mean) / deviation);
                }
            }
        }
        greatest.sort_unstable_by(f64::total_cmp);
        let place = (rule.share * greatest.len() as f64).ceil() as usize;
        let bar = greatest.get(place.max(1) - 1).copied().unwrap_or(f64::INFINITY);
        let groups = baseline.own.len().max(1) as f64;
        Self { gains, agreements, bar, sure: SURE + (FEW / groups).powi(2).min(1.0) }
    }

    /// Whether a gain is beyond doubt.
    pub fn is_sure(&self, candidate: usize) -> bool {
        self.gains[candidate].exceeds(self.sure) && self.agreements[candidate] > self.bar
    }

    /// The candidate to take, `None` if none is sure.
    pub fn choose(&self, candidates: &[Candidate], traces: &[Trace]) -> Option<usize> {
        let sure: Vec<usize> = (0..traces.len()).filter(|&candidate| self.is_sure(candidate)).collect();
        let first = most(&sure, &self.gains, candidates)?;
        let colder = equals(&sure, &self.gains)
            .map(|other| (Estimate::of_pairs(&traces[first].cold, &traces[other].cold), other))
            .filter(|(gain, _)| gain.exceeds(SURE));
        Some(
            colder
                .reduce(|a, b| if b.0.least() > a.0.least() { b } else { a })
                .map_or(first, |(_, other)| other),
        )
    }

    /// What the best candidate gains on queries that it was not chosen on: for each of `BLOCKS` blocks of groups that of the
    /// one that the other blocks choose, of all.
    ///
    /// The greatest of many gains is partly luck, which the same queries can't tell from merit (Efron 2011).
    pub fn unselected(candidates: &[Candidate], traces: &[Trace]) -> Estimate {
        let Some(baseline) = traces.first() else { return Estimate::default() };
        let groups = baseline.own.len();
        let gain = |trace: &Trace, group: usize| trace.own[group] - baseline.own[group];
        let tried: Vec<usize> = (1..traces.len()).collect();
        let best = |block: usize| {
            let others = |trace| {
                let groups = (0..groups).filter(move |group| group % BLOCKS != block);
                Estimate::of(groups.map(move |group| gain(trace, group)))
            };
            let gains: Vec<Estimate> = memory::collect(traces.iter().map(others));
            most(&tried, &gains, candidates).unwrap_or(0)
        };
        let best = threads::map(BLOCKS, best);
        Estimate::of((0..groups).map(|group| gain(&traces[best[group % BLOCKS]], group)))
    }

    /// Whether smoothing, over the candidate without it, is beyond doubt.
    pub fn is_sure_of_smooth(&self, candidate: usize) -> bool {
        self.gains[candidate].exceeds(SURE_OF_SMOOTH) && self.is_sure(candidate)
    }
}

/// Of these candidates the one with the greatest gain less its caution, or the best sum of both models among its equals.
fn most(of: &[usize], gains: &[Estimate], candidates: &[Candidate]) -> Option<usize> {
    let best = |of: &mut dyn Iterator<Item = usize>| {
        of.reduce(|a, b| if gains[b].least() > gains[a].least() { b } else { a })
    };
    let first = best(&mut of.iter().copied())?;
    best(&mut equals(of, gains).filter(|&other| candidates[other].is_sum())).or(Some(first))
}

/// Those with nearly the gain of the one with the greatest gain less its caution.
fn equals<'a>(of: &'a [usize], gains: &'a [Estimate]) -> impl Iterator<Item = usize> + 'a {
    let least =
        of.iter().map(|&candidate| gains[candidate]).reduce(|a, b| if b.least() > a.least() { b } else { a });
    let bar = least.map_or(f64::INFINITY, |first| EQUAL * first.mean);
    of.iter().copied().filter(move |&other| gains[other].mean >= bar)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(own: &[f64], cold: &[f64], permuted: &[f64]) -> Trace {
        Trace { own: own.to_vec(), cold: cold.to_vec(), permuted: permuted.to_vec() }
    }

    /// The same of a hundred times as many groups: enough for the usual number of errors.
    fn of_many(own: &[f64], cold: &[f64], permuted: &[f64]) -> Trace {
        of(&own.repeat(100), &cold.repeat(100), permuted)
    }

    const RULE: Rule = Rule { alike: 0.95, centred: false, permutations: 4, share: 0.75 };

    #[test]
    fn a_gain_must_exceed_its_errors_and_what_the_best_gets_by_chance() {
        let plain = of_many(&[0.0; 4], &[f64::NAN; 4], &[0.0; 4]);
        let decide = |traces: &[Trace]| {
            Verdict::new(&plain, traces, RULE).choose(&vec![Candidate::PLAIN; traces.len()], traces)
        };
        let chance = [0.01, -0.01, 0.01, -0.01];
        let sure = of_many(&[0.05, 0.06, 0.05, 0.06], &[f64::NAN; 4], &chance);
        assert_eq!(decide(&[plain.clone(), sure.clone()]), Some(1));
        assert_eq!(
            decide(&[of_many(&[2.0, -1.9, 0.1, 0.0], &[f64::NAN; 4], &chance)]),
            None,
            "within two errors"
        );
        let popular = of_many(&[0.05, 0.06, 0.05, 0.06], &[f64::NAN; 4], &[0.06, 0.05, 0.07, 0.05]);
        assert_eq!(decide(&[popular]), None, "others' clicks give as much");
        let far = of_many(&[0.0; 4], &[f64::NAN; 4], &[-0.01, -0.01, -0.01, 0.9]);
        assert_eq!(Verdict::new(&plain, &[sure, far], RULE).bar, 1.0, "three of four stay at or below");
        assert_eq!(decide(&[]), None);
    }

    #[test]
    fn few_groups_must_gain_more_errors() {
        let sure = |groups: usize| {
            let gain: Vec<f64> = (0..groups).map(|group| if group % 2 == 0 { 0.0 } else { 0.1 }).collect();
            let traces = [of(&gain, &vec![f64::NAN; groups], &[0.01, -0.01, 0.01, -0.01])];
            let plain = of(&vec![0.0; groups], &vec![f64::NAN; groups], &[0.0; 4]);
            Verdict::new(&plain, &traces, RULE).sure
        };
        assert_eq!([10, 50, 100, 500].map(sure), [3.0, 3.0, 2.25, 2.01]);
    }

    #[test]
    fn never_clicked_documents_decide_among_equals_only_beyond_doubt() {
        let plain = of_many(&[0.0; 4], &[0.0; 4], &[0.0; 4]);
        let chance = [0.001, -0.001, 0.001, -0.001];
        let decide_with = |second: Candidate, cold: &[f64], own: f64| {
            let traces = [
                of_many(&[0.05, 0.06, 0.05, 0.06], &[0.1; 4], &chance),
                of_many(&[own, own + 0.01, own, own + 0.01], cold, &chance),
            ];
            Verdict::new(&plain, &traces, RULE).choose(&[Candidate::PLAIN, second], &traces)
        };
        let decide = |cold: &[f64], own| decide_with(Candidate::PLAIN, cold, own);
        let sum = Candidate { edge: Some(0.5), ..Candidate::PLAIN };
        assert_eq!(decide_with(sum, &[0.1; 4], 0.0495), Some(1), "a sum of equals");
        assert_eq!(decide_with(sum, &[0.1; 4], 0.045), Some(0));
        assert_eq!(decide(&[0.3, 0.31, 0.3, 0.31], 0.0495), Some(1));
        assert_eq!(decide(&[19.0, -18.6, 0.1, 0.7], 0.0495), Some(0), "within two errors");
        assert_eq!(decide(&[0.3, 0.31, 0.3, 0.31], 0.045), Some(0), "no equal");
    }

    #[test]
    fn clicks_by_chance_on_never_clicked_documents_come_to_nothing() {
        let judged = |cold: &[Graded]| Judged { relevant: [&[(1, 1.0)], cold].concat(), cold: cold.to_vec() };
        // One of four rows was clicked, as often as chance would have it.
        let chance = [(2, 0.75), (3, -0.25), (4, -0.25), (5, -0.25)];
        let sum: f64 = [[2, 3], [3, 2], [4, 5], [5, 4]].iter().map(|ranking| gained(ranking, &chance)).sum();
        assert!(sum.abs() < 1e-12);
        assert_eq!(judged(&chance).cold_ndcg(&[2]), 1.0);
        assert_eq!(judged(&[(2, -0.25)]).cold_ndcg(&[2, 1]), -0.25);
        assert_eq!(judged(&[(2, 1.0)]).cold_ndcg(&[1, 2]), 1.0 / 3f64.log2());
    }

    #[test]
    fn a_gain_is_measured_where_it_did_not_choose() {
        let plain = of(&[0.0; 16], &[f64::NAN; 16], &[0.0; 4]);
        let on = |block: usize| {
            let gains: Vec<f64> =
                (0..16).map(|group| if group % BLOCKS == block { 0.8 } else { 0.0 }).collect();
            of(&gains, &[f64::NAN; 16], &[0.0; 4])
        };
        // Each gains on one block alone, where another was chosen.
        let lucky: Vec<Trace> = std::iter::once(plain.clone()).chain((0..BLOCKS).map(on)).collect();
        let candidates = vec![Candidate::PLAIN; lucky.len()];
        assert_eq!(Verdict::unselected(&candidates, &lucky), Estimate::default());
        let sure = [plain, of(&[0.25; 16], &[f64::NAN; 16], &[0.0; 4])];
        assert_eq!(Verdict::unselected(&candidates, &sure), Estimate { mean: 0.25, error: 0.0 });
    }

    #[test]
    fn ndcg_agrees_with_the_metric() {
        use crate::metrics::{self, Relevance};
        let relevant = [(3, 1.0), (7, 2.0), (50, 1.0)];
        let judged = Relevance::new(relevant.iter().map(|&(row, grade)| (row as i64, f64::from(grade))));
        for ranking in
            [vec![3, 1, 7], vec![9, 8, 1, 2, 4, 5, 6, 0, 11, 7], (0..60).collect::<Vec<u32>>(), vec![]]
        {
            let rows: Vec<i64> = ranking.iter().map(|&row| i64::from(row)).collect();
            let expected = metrics::ndcg(&rows, &judged, DEPTH).unwrap();
            assert!((ndcg(&ranking, &relevant) - expected).abs() < 1e-12, "{ranking:?}");
        }
        assert!(ndcg(&[1], &[]).is_nan() && ndcg(&[1], &[(1, -0.5)]).is_nan());
        assert_eq!(ndcg(&[1, 2], &[(1, -0.5), (2, 1.0)]), 1.0 / 3f64.log2() - 0.5);
    }

    fn list() -> Shortlist {
        Shortlist {
            docs: vec![3, 5, 8],
            plain: vec![0.9, 0.5, 0.1],
            adapter: vec![0.1, 0.6, 0.2],
            edge: vec![0.1, 0.2, 0.7],
            votes: VOTERS
                .iter()
                .map(|voters| vec![0.0, 0.0, if voters.neighbors == 5 { 2.0 } else { 1.0 }])
                .collect(),
            cold: vec![1.0, 0.0, 0.0],
            pulled: PULLS.iter().map(|&pull| vec![0.0, 0.0, if pull > 1.0 { 2.0 } else { 0.1 }]).collect(),
            neighbors: vec![0.0, 1.0, 0.0],
        }
    }

    #[test]
    fn candidates_rank_by_their_formula() {
        let list = list();
        assert_eq!(list.ranking(Candidate::PLAIN), [3, 5, 8]);
        assert_eq!(list.ranking(Candidate { memory: 0.7, ..Candidate::PLAIN }), [3, 8, 5]);
        assert_eq!(list.ranking(Candidate { memory: 0.7, voters: VOTERS[1], ..Candidate::PLAIN }), [8, 3, 5]);
        assert_eq!(list.ranking(Candidate { edge: Some(0.0), ..Candidate::PLAIN }), [5, 8, 3]);
        assert_eq!(list.ranking(Candidate { edge: Some(1.0), cold: 0.9, ..Candidate::PLAIN }), [3, 8, 5]);
        assert_eq!(list.ranking(Candidate { centroid: 0.5, ..Candidate::PLAIN }), [3, 5, 8]);
        assert_eq!(list.ranking(Candidate { centroid: 0.5, pull: PULLS[2], ..Candidate::PLAIN }), [8, 3, 5]);
        assert_eq!(list.ranking(Candidate { smooth: 0.5, ..Candidate::PLAIN }), [5, 3, 8]);
        assert_eq!(list.ranking(Candidate { smooth: -0.5, ..Candidate::PLAIN }), [3, 8, 5]);
        let all = Candidate::all();
        assert_eq!((all[0], all.len()), (Candidate::PLAIN, 49 + 17 * 25 * 2));
        assert_eq!(Candidate::untrained().len(), 49 + 5 * 25 * 2);
    }

    #[test]
    fn a_trace_is_the_mean_over_groups_by_their_own_and_by_permuted_clicks() {
        let relevant = [vec![(3, 1.0)], vec![(8, 2.0), (5, 1.0)], vec![(77, 1.0)]];
        let groups = relevant
            .iter()
            .map(|relevant| Judged { relevant: relevant.clone(), cold: relevant[..1].to_vec() });
        let trial = |group| Trial { list: list(), group };
        let part = Part::new(vec![trial(0), trial(0), trial(1), trial(2)], groups.collect(), 50, 1, 0);
        let permuted = part.permuted.clone();
        let trace = Trace::of(&[part], Candidate::PLAIN);
        let by = relevant.map(|relevant| ndcg(&[3, 5, 8], &relevant));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        by.iter().zip(&trace.own).for_each(|(a, b)| close(*a, *b));
        close(trace.cold[1], ndcg(&[3, 5, 8], &[(8, 2.0)]));
        for at in 0..50 {
            let mean = permuted.iter().map(|groups| by[groups[at] as usize]).sum::<f64>() / 3.0;
            close(trace.permuted[at], mean);
        }
    }
}
