//! The guard: which ranking may replace the plain one, judged on queries that it did not learn from.
//!
//! A candidate scores documents as `F = (1 - r) base + r u + w m + b [never clicked] + s z`, where the base is the plain
//! metric or `a e + (1 - a) n` of the two models, `u` the untrained click edges, `m` the memory and `z` the score of the
//! mean of a document's neighbours in the index. Per held-back query its nDCG@10 is compared with the plain one's. A candidate
//! is *eligible* if the mean difference exceeds two standard errors, and if it still exceeds two and a half after the
//! same difference on the clicks of other held-back queries (the mean over eight) is taken off: a gain that a query
//! would get from any other's clicks is popularity, no evidence that clicks belong to queries (shuffled logs fail
//! here). Of the eligible, those with at least 93% of the best gain are equals, and the one that serves never-clicked
//! documents best is taken. Smoothing (`s`, of either sign) is judged last, over the candidate so chosen, and must gain
//! three standard errors: it hurts most collections, and helps some clearly.

#![forbid(unsafe_code)]

use super::memory::best;
use crate::memory;
use crate::threads;
use std::sync::LazyLock;

/// How deep rankings are judged.
pub const DEPTH: usize = 10;

const SHARES: [f32; 4] = [0.0, 0.5, 0.7, 1.0];
/// Weights of the memory that are tried.
pub const MEMORY: [f32; 9] = [0.0, 0.05, 0.1, 0.15, 0.2, 0.35, 0.5, 1.0, 2.0];
const COLD: [f32; 4] = [0.0, 0.005, 0.01, 0.02];
/// Shares of the untrained click edges that are tried.
const CENTROID: [f32; 2] = [0.0, 0.5];
/// Weights of the neighbours' mean that are tried.
const SMOOTH: [f32; 4] = [-0.3, -0.15, 0.15, 0.3];
/// Standard errors that smoothing must gain.
const SURE_OF_SMOOTH: f64 = 3.0;
/// Standard errors that a gain must exceed, and those that it must exceed beyond popularity.
const SURE: f64 = 2.0;
const SURE_OF_MATCH: f64 = 2.5;
/// What share of the best gain makes an equal.
const EQUAL: f64 = 0.93;

/// A way to rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The share of the edge model among the two models; `None` for the plain metric.
    pub edge: Option<f32>,
    /// The weight of the memory.
    pub memory: f32,
    /// What never-clicked documents get on top.
    pub cold: f32,
    /// The share of the untrained click edges in the base.
    pub centroid: f32,
    /// The weight of the neighbours' mean, of either sign.
    pub smooth: f32,
}

impl Candidate {
    /// The plain metric alone.
    pub const PLAIN: Self = Self { edge: None, memory: 0.0, cold: 0.0, centroid: 0.0, smooth: 0.0 };

    /// Those of the memory alone. The first is [`PLAIN`](Self::PLAIN).
    pub fn alone() -> Vec<Self> {
        MEMORY.iter().map(|&memory| Self { memory, ..Self::PLAIN }).collect()
    }

    /// All that are tried on held-back queries but for [`smoothed`](Self::smoothed) ones; [`alone`](Self::alone) first.
    pub fn all() -> Vec<Self> {
        let mut all = Self::alone();
        let bases = std::iter::once(None).chain(SHARES.map(Some));
        for (edge, centroid) in bases.flat_map(|edge| CENTROID.map(|centroid| (edge, centroid))) {
            if edge.is_none() && centroid == 0.0 {
                continue;
            }
            let weights = MEMORY.iter().flat_map(|&memory| COLD.map(|cold| (memory, cold)));
            all.extend(weights.map(|(memory, cold)| Self { edge, memory, cold, centroid, smooth: 0.0 }));
        }
        all
    }

    /// This candidate with each weight of the neighbours' mean.
    pub fn smoothed(self) -> Vec<Self> {
        SMOOTH.iter().map(|&smooth| Self { smooth, ..self }).collect()
    }

    /// What takes part, in words.
    pub fn describe(&self) -> String {
        let base = match self.edge {
            None => "plain metric".to_string(),
            Some(0.0) => "query adapter".to_string(),
            Some(1.0) => "adapter with click edges".to_string(),
            Some(share) => format!("{share} adapter with click edges + {:.1} query adapter", 1.0 - share),
        };
        let base = if self.centroid > 0.0 {
            format!("{} untrained click edges + {} ({base})", self.centroid, 1.0 - self.centroid)
        } else {
            base
        };
        let memory = if self.memory > 0.0 { format!(" + {} memory", self.memory) } else { String::new() };
        let cold = if self.cold > 0.0 { format!(" + {} if never clicked", self.cold) } else { String::new() };
        let smooth =
            if self.smooth == 0.0 { String::new() } else { format!(" {:+} neighbours", self.smooth) };
        base + &memory + &cold + &smooth
    }

    /// The family that a report names.
    pub fn family(&self) -> &'static str {
        if self.centroid > 0.0 {
            return if self.edge.is_some() { "sum+centroid" } else { "centroid" };
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
    /// Votes.
    pub memory: Vec<f32>,
    /// 1 for never-clicked documents.
    pub cold: Vec<f32>,
    /// Scores of the untrained click edges.
    pub centroid: Vec<f32>,
    /// Scores of the neighbours' means.
    pub neighbors: Vec<f32>,
}

impl Shortlist {
    /// The first documents under `candidate`.
    pub fn ranking(&self, candidate: Candidate) -> Vec<u32> {
        let score = |at: usize| {
            let base = match candidate.edge {
                None => self.plain[at],
                Some(share) => share * self.edge[at] + (1.0 - share) * self.adapter[at],
            };
            (1.0 - candidate.centroid) * base
                + candidate.centroid * self.centroid[at]
                + candidate.memory * self.memory[at]
                + candidate.cold * self.cold[at]
                + candidate.smooth * self.neighbors[at]
        };
        let scores: Vec<f32> = memory::collect((0..self.docs.len()).map(score));
        best(&scores, DEPTH, None).into_iter().map(|(_, at)| self.docs[at as usize]).collect()
    }
}

/// How many other queries' clicks each ranking is also judged on.
pub const OTHERS: usize = 8;

/// A held-back query: its shortlist, what it was clicked for, and what others were clicked for.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What may be ranked.
    pub list: Shortlist,
    /// Its clicks with their grades.
    pub relevant: Vec<(u32, f32)>,
    /// The clicks of [`OTHERS`] other held-back queries (fewer if there are fewer).
    pub others: Vec<Vec<(u32, f32)>>,
    /// Those of `relevant` on documents that nobody else clicked.
    pub cold: Vec<(u32, f32)>,
}

/// nDCG@10 per query of one candidate: on the query's own clicks, on others', and on its cold ones (else NaN).
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// On the query's own clicks.
    pub own: Vec<f64>,
    /// On other queries' clicks.
    pub others: Vec<f64>,
    /// On those of its clicks that lead to documents never clicked otherwise.
    pub cold: Vec<f64>,
}

/// nDCG of a ranking as [`crate::metrics::ndcg`], for rankings too many to build tables for; NaN if nothing is relevant.
pub fn ndcg(ranking: &[u32], relevant: &[(u32, f32)]) -> f64 {
    let discounted = |gains: &mut dyn Iterator<Item = f32>| -> f64 {
        gains.zip(DISCOUNTS.iter()).map(|(gain, discount)| f64::from(gain) * discount).sum()
    };
    let gain = |item: &u32| relevant.iter().find(|(other, _)| other == item).map_or(0.0, |(_, grade)| *grade);
    let mut ideal: Vec<f32> = relevant.iter().map(|(_, grade)| *grade).collect();
    ideal.sort_unstable_by(|a, b| b.total_cmp(a));
    let best = discounted(&mut ideal.into_iter());
    discounted(&mut ranking.iter().map(gain)) / best
}

/// `1 / log2(place + 1)` for places counted from 1.
static DISCOUNTS: LazyLock<[f64; DEPTH]> =
    LazyLock::new(|| std::array::from_fn(|place| 1.0 / ((place + 2) as f64).log2()));

/// Runs candidates over the held-back queries.
pub fn trace(trials: &[Trial], candidates: &[Candidate]) -> Vec<Trace> {
    threads::map(candidates.len(), |number| {
        let mut trace = Trace::default();
        for trial in trials {
            let ranking = trial.list.ranking(candidates[number]);
            memory::push(&mut trace.own, ndcg(&ranking, &trial.relevant));
            let others = trial.others.iter().map(|other| ndcg(&ranking, other));
            memory::push(&mut trace.others, others.sum::<f64>() / trial.others.len().max(1) as f64);
            memory::push(&mut trace.cold, ndcg(&ranking, &trial.cold));
        }
        trace
    })
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

    fn exceeds(&self, errors: f64) -> bool {
        self.mean > 1e-9 && self.mean > errors * self.error
    }
}

/// What a candidate gains over the plain metric.
#[derive(Clone, Copy, Debug)]
pub struct Gain {
    /// Mean paired difference.
    pub own: Estimate,
    /// The same less what others' clicks give.
    pub matched: Estimate,
    /// The paired difference on never-clicked documents.
    pub cold: Estimate,
}

impl Gain {
    /// Of one trace over another of the same queries.
    pub fn over(plain: &Trace, trace: &Trace) -> Self {
        let own = |i: usize| trace.own[i] - plain.own[i];
        let other = |i: usize| trace.others[i] - plain.others[i];
        let all = 0..plain.own.len();
        Self {
            own: Estimate::of(all.clone().map(own)),
            matched: Estimate::of(all.clone().map(|i| own(i) - other(i))),
            cold: Estimate::of(all.map(|i| trace.cold[i] - plain.cold[i])),
        }
    }

    /// Whether the gain is beyond doubt.
    pub fn is_sure(&self) -> bool {
        self.own.exceeds(SURE) && self.matched.exceeds(SURE_OF_MATCH)
    }

    /// Whether smoothing, over the candidate without it, is beyond doubt.
    pub fn is_sure_of_smooth(&self) -> bool {
        self.own.exceeds(SURE_OF_SMOOTH) && self.matched.exceeds(SURE_OF_SMOOTH)
    }
}

/// The chosen candidate's place, 0 (the plain metric) if none is sure. `sure` may overrule a gain's own verdict.
pub fn choose(gains: &[Gain], sure: &[bool]) -> usize {
    let eligible: Vec<usize> = (0..gains.len()).filter(|&i| sure[i] && gains[i].own.mean > 0.0).collect();
    let most = eligible.iter().map(|&i| gains[i].own.mean).fold(0.0, f64::max);
    let equals = eligible.into_iter().filter(|&i| gains[i].own.mean >= EQUAL * most);
    let key = |i: usize| (gains[i].cold.mean, gains[i].own.mean);
    equals.reduce(|a, b| if key(b) > key(a) { b } else { a }).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gain(own: f64, error: f64, matched: f64, cold: f64) -> Gain {
        let estimate = |mean| Estimate { mean, error };
        Gain { own: estimate(own), matched: estimate(matched), cold: estimate(cold) }
    }

    #[test]
    fn only_sure_gains_beyond_popularity_are_taken_and_cold_documents_decide_among_equals() {
        let plain = gain(0.0, 0.0, 0.0, 0.0);
        let sure = |gains: &[Gain]| gains.iter().map(Gain::is_sure).collect::<Vec<_>>();
        let decide = |gains: &[Gain]| choose(gains, &sure(gains));
        assert_eq!(decide(&[plain, gain(0.03, 0.02, 0.09, 0.0)]), 0, "within two errors");
        assert_eq!(decide(&[plain, gain(0.05, 0.02, 0.05, 0.0)]), 0, "popularity");
        assert_eq!(decide(&[plain, gain(0.05, 0.01, 0.05, -0.1), gain(0.048, 0.01, 0.05, 0.1)]), 2);
        assert_eq!(decide(&[plain, gain(0.05, 0.01, 0.05, -0.1), gain(0.045, 0.01, 0.05, 0.1)]), 1);
        assert_eq!(decide(&[plain]), 0);
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
        assert!(ndcg(&[1], &[]).is_nan());
    }

    #[test]
    fn candidates_rank_by_their_formula() {
        let list = Shortlist {
            docs: vec![3, 5, 8],
            plain: vec![0.9, 0.5, 0.1],
            adapter: vec![0.1, 0.6, 0.2],
            edge: vec![0.1, 0.2, 0.7],
            memory: vec![0.0, 0.0, 1.0],
            cold: vec![1.0, 0.0, 0.0],
            centroid: vec![0.0, 0.0, 2.0],
            neighbors: vec![0.0, 1.0, 0.0],
        };
        assert_eq!(list.ranking(Candidate::PLAIN), [3, 5, 8]);
        assert_eq!(list.ranking(Candidate { memory: 1.0, ..Candidate::PLAIN }), [8, 3, 5]);
        assert_eq!(list.ranking(Candidate { edge: Some(0.0), ..Candidate::PLAIN }), [5, 8, 3]);
        assert_eq!(list.ranking(Candidate { edge: Some(1.0), cold: 0.9, ..Candidate::PLAIN }), [3, 8, 5]);
        assert_eq!(list.ranking(Candidate { centroid: 0.5, ..Candidate::PLAIN }), [8, 3, 5]);
        assert_eq!(list.ranking(Candidate { smooth: 0.5, ..Candidate::PLAIN }), [5, 3, 8]);
        assert_eq!(list.ranking(Candidate { smooth: -0.5, ..Candidate::PLAIN }), [3, 8, 5]);
        let all = Candidate::all();
        assert_eq!((all[0], all.len()), (Candidate::PLAIN, 9 + 9 * 9 * 4));
        assert_eq!(all[..9], Candidate::alone());
    }
}
