//! From a log to a ranking: train on most of the log, judge on the rest, then train on all of it.
//!
//! Both models are trained side by side without each fold; now and then the held-back queries are ranked by their
//! even sum with the memory, and training stops when that has not improved for a while. Then the guard compares
//! all candidates on the held-back queries, and the chosen one is trained again on the whole log.

#![forbid(unsafe_code)]

use super::clicks::Clicks;
use super::groups::Groups;
use super::guard::{
    self, Candidate, DEPTH, Estimate, Graded, Judged, PULLS, Part, Rule, Shortlist, Trace, Trial, VOTERS,
    Verdict, ndcg,
};
use super::log::Log;
use super::memory::{Memory, best, require_margin};
use super::model::Model;
use super::space::{Geometry, Space};
use super::stage::{Stage, WHOLE};
use super::train::{Lesson, Training, batch_size};
use crate::error::Result;
use crate::linalg::{MatRef, matmul_into};
use crate::memory;
use crate::monitor::Monitor;
use crate::rng::stream;
use crate::simd;
use crate::threads;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Fewer past queries that judge train no model; what needs no training is judged.
const FEWEST: usize = 40;
/// Judging stops at this many held-back queries.
const HELD_BACK: usize = 800;
/// Folds, of a log that is no longer than so many queries; a longer one is cut into folds of so many, of which two judge what
/// was learned without both.
const FOLDS: usize = 8;
const SHORT_LOG: usize = 1600;
const FOLD: usize = 400;
/// Groups that a fold needs, or permuted clicks say nothing.
const GROUPS: usize = 4;
/// Standard errors that the gain on queries which did not choose must exceed.
const UNSELECTED: f64 = 0.5;
/// Steps between two looks at the held-back queries, in whole epochs where they are short.
const LOOK: usize = 12;
const LONGEST_LOOK: usize = 50;
/// Looks without a best before training stops.
const PATIENCE: usize = 3;
const EPOCHS: usize = 40;
const STEPS: usize = 600;
/// The weight of the memory while models are trained.
const MEMORY: f32 = 0.2;
/// How deep each ranking reaches into a shortlist.
const LISTED: usize = 60;
/// How much of the whole is done when the folds are judged.
const JUDGED: usize = 600;
/// Raises never-clicked documents into the shortlist, on the scale of two scores.
const LIFT: f32 = 0.06;

/// The two models of the learner.
#[derive(Clone, Debug, PartialEq)]
pub struct Models {
    /// With click edges.
    pub edge: Model,
    /// The query adapter alone.
    pub adapter: Model,
}

/// What was judged, and how it came out: all figures are nDCG@10 of held-back queries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Distinct past queries in the log.
    pub queries: usize,
    /// Groups of like queries that candidates were judged on.
    pub held_back: usize,
    /// Steps that the promoted models were trained for.
    pub steps: usize,
    /// Candidates that were judged.
    pub tried: usize,
    /// The plain ranking.
    pub plain: f64,
    /// The chosen ranking, `plain + gain`.
    pub learned: f64,
    /// The mean paired difference to the plain ranking and its standard error, of candidates chosen on other queries; 0 if none
    /// was promoted.
    pub gain: Estimate,
    /// The plain ranking on clicks that lead to documents never clicked otherwise (NaN if there are none).
    pub plain_cold: f64,
    /// The chosen ranking on those.
    pub learned_cold: f64,
    /// The gain on past queries that have others like them, which the memory keeps, and their number.
    pub familiar: (Estimate, usize),
    /// By how many deviations the plain ranking agrees better with the clicks than with permuted ones.
    pub agreement: f64,
    /// The chosen ranking in words.
    pub chosen: String,
    /// Why nothing was promoted, in words; empty otherwise.
    pub refused: String,
    /// Whether the chosen ranking is not the plain one.
    pub promoted: bool,
    /// The best of each family: name, mean, gain.
    pub families: Vec<(String, f64, Estimate)>,
}

/// The outcome of a fit.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The ranking that was chosen.
    pub candidate: Candidate,
    /// The models, if the candidate needs them.
    pub models: Option<Models>,
    /// What was judged.
    pub report: Report,
}

/// Documents `(n, dim)` and a log, both in the learner's space.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The space.
    pub space: &'a Space,
    /// The documents, row by row.
    pub docs: &'a [f32],
    /// The mean of each document's neighbours in the index.
    pub neighbors: &'a [f32],
    /// The past queries, whose clicks are positions in `docs`.
    pub log: &'a Log,
    /// What each past query is judged by, because these clicks do not follow the order that was shown; nothing for those that
    /// do not judge. `None`: by the clicks of the log.
    pub judged: Option<&'a [Vec<Graded>]>,
    /// What every random choice comes from.
    pub seed: u64,
}

impl Task<'_> {
    /// What a past query is judged by.
    fn judged(&self, query: usize) -> Vec<Graded> {
        self.judged
            .map_or_else(|| memory::collect(self.log.clicks(query)), |judged| memory::copy_of(&judged[query]))
    }

    fn columns(&self) -> usize {
        self.docs.len() / self.space.dim()
    }
}

/// The queries of one fold, before any ranking.
struct Cut {
    /// Those that judge, group by group.
    held: Vec<usize>,
    /// The number of each one's group in the fold.
    groups: Vec<u32>,
    /// All others that are not in any of these groups; where not all folds judge, nor in those of another that does, so that
    /// one training is for all.
    train: Vec<usize>,
}

/// The queries of one fold: trained without, judged on.
struct Fold<'a> {
    cut: &'a Cut,
    train: Log,
    clicks: Clicks,
    held: Log,
    judged: Vec<Judged>,
    plain: Vec<f32>,
    pulled: Pulled,
    neighbors: Vec<f32>,
    nearest: Vec<Vec<(f32, u32)>>,
    memory: Memory,
}

/// Scores of a fold's held-back queries.
struct Scored {
    edge: Vec<f32>,
    adapter: Vec<f32>,
}

/// Chooses and trains a ranking.
pub fn fit(task: Task<'_>, monitor: &mut dyn Monitor) -> Result<Fitted> {
    let judges = |&query: &usize| task.judged.is_none_or(|judged| !judged[query].is_empty());
    let mut order: Vec<usize> = memory::collect((0..task.log.len()).filter(judges));
    stream(task.seed, "folds", 0).shuffle(&mut order);
    // Near repetitions in several groups would agree with clicks, or not, together: by chance far more often than permutations
    // tell.
    let mut strict =
        [Rule::STRICT, Rule::STRICT_CENTRED].into_iter().map(|rule| (rule, cut(&task, &order, rule)));
    let Some((mut rule, mut cuts)) = strict.find(|(_, cuts)| !cuts.is_empty()) else {
        return Ok(nothing(&task, "too few different past queries to judge by"));
    };
    let plain = plain_trace(&task, &cuts, rule);
    if plain.agrees() {
        rule = Rule::USUAL;
        cuts = cut(&task, &order, rule);
    }
    let folds: Vec<Fold<'_>> = memory::collect(cuts.iter().map(|cut| Fold::new(&task, cut)));
    let (steps, scored, mut candidates) = if order.len() < FEWEST {
        (0, Vec::new(), Candidate::untrained())
    } else {
        let mut stage = Stage { monitor: &mut *monitor, start: 0, end: JUDGED };
        let (steps, scored) = judge(&task, &folds, &mut stage)?;
        (steps, scored, Candidate::all())
    };
    let scored_of = |number: usize| scored.get(number);
    let parts: Vec<Part> = memory::collect(folds.iter().enumerate().map(|(number, fold)| {
        let trials = fold.trials(scored_of(number), &fold.nearest, &fold.memory);
        Part::new(trials, fold.judged.clone(), rule.permutations, task.seed, number as u64)
    }));
    let mut traces = guard::trace(&parts, &candidates);
    let verdict = Verdict::new(&traces[0], &traces, rule);
    let mut gains = verdict.gains.clone();
    let unselected = Verdict::unselected(&candidates, &traces);
    let mut chosen =
        verdict.choose(&candidates, &traces).filter(|_| unselected.exceeds(UNSELECTED)).unwrap_or(0);
    let base = chosen;
    if let Some((candidate, trace)) = smoothed(&parts, candidates[chosen], &traces[chosen], rule) {
        gains.push(Estimate::of_pairs(&traces[0].own, &trace.own));
        candidates.push(candidate);
        traces.push(trace);
        chosen = traces.len() - 1;
    }
    let mut report = report(&candidates, &traces, &gains, chosen);
    report.queries = task.log.len();
    report.steps = steps;
    report.agreement = plain.agreement();
    if chosen == 0 {
        report.refused = refusal(&verdict, unselected, rule);
    } else {
        // Smoothing of the plain ranking is one of four, and has its own gain.
        if base != 0 {
            report.gain = unselected;
            report.learned = report.plain + unselected.mean;
        }
        report.familiar = familiar(&task, &folds, &scored, candidates[chosen]);
    }
    let candidate = candidates[chosen];
    let mut stage = Stage { monitor, start: JUDGED, end: WHOLE };
    let models = if candidate.edge.is_some() { Some(train_all(&task, steps, &mut stage)?) } else { None };
    Ok(Fitted { candidate, models, report })
}

/// Nothing that could be judged.
fn nothing(task: &Task<'_>, why: &str) -> Fitted {
    let report = Report {
        queries: task.log.len(),
        chosen: Candidate::PLAIN.describe(),
        refused: why.to_string(),
        ..Report::default()
    };
    Fitted { candidate: Candidate::PLAIN, models: None, report }
}

/// Why no candidate was taken, by the one with the greatest gain.
fn refusal(verdict: &Verdict, unselected: Estimate, rule: Rule) -> String {
    let most =
        (0..verdict.gains.len()).max_by(|&a, &b| verdict.gains[a].mean.total_cmp(&verdict.gains[b].mean));
    let most = most.expect("the plain ranking is a candidate");
    let Estimate { mean, error } = verdict.gains[most];
    if mean <= 0.0 {
        return "no candidate gains anything on held-back queries".to_string();
    }
    if !verdict.gains[most].exceeds(verdict.sure) {
        return format!(
            "the greatest gain, {mean:.4}, does not exceed {:.1} standard errors of {error:.4}",
            verdict.sure
        );
    }
    if verdict.is_sure(most) {
        let Estimate { mean: rest, error } = unselected;
        return format!(
            "the greatest gain, {mean:.4}, is {rest:.4} on queries that it was not chosen on, with a standard error of {error:.4}"
        );
    }
    let strict = if rule != Rule::USUAL {
        ", since the plain ranking agrees with the clicks no better than chance"
    } else {
        ""
    };
    let (found, bar, count) = (verdict.agreements[most], verdict.bar, verdict.gains.len());
    format!(
        "the greatest gain, {mean:.4}, is {found:.1} deviations beyond what permuted clicks give, and the best of {count} candidates reaches {bar:.1} by chance{strict}"
    )
}

/// Cuts the queries that judge into folds, so that each group of like queries is in one; only the folds that are judged.
///
/// Without folds if there are too few groups.
fn cut(task: &Task<'_>, order: &[usize], rule: Rule) -> Vec<Cut> {
    let count = order.len();
    let parts = if count < SHORT_LOG { FOLDS } else { count / FOLD };
    let size = count.div_ceil(parts).max(1);
    let used = HELD_BACK.div_ceil(size).min(parts);
    let wanted = if used == parts { order } else { &order[..(used * size).min(count)] };
    let groups = Groups::new(task.log, (rule.alike, rule.centred), wanted);
    let mut members: Vec<Vec<usize>> = memory::collect((0..groups.count).map(|_| Vec::new()));
    order.iter().for_each(|&query| memory::push(&mut members[groups.of[query] as usize], query));
    // Groups in the order of their first query, as long as they have no more than so many queries in all.
    let take = |most: usize| {
        let (mut found, mut held): (Vec<u32>, usize) = (Vec::new(), 0);
        let mut seen = memory::vec![false; groups.count];
        for &query in wanted {
            let group = groups.of[query];
            let count = members[group as usize].len();
            if !std::mem::replace(&mut seen[group as usize], true) && held + count <= most {
                memory::push(&mut found, group);
                held += count;
            }
        }
        found
    };
    let mut found = take(used * size);
    // One training without all of these needs enough groups in them, and the rest to learn from.
    let shared = used < parts && found.len() >= 2 * GROUPS;
    if !shared {
        found = take(usize::MAX);
    }
    if found.len() < 2 * GROUPS {
        return Vec::new();
    }
    let used = used.min(found.len() / GROUPS);
    found.sort_by_key(|group| Reverse(members[*group as usize].len()));
    let mut folds: Vec<(Vec<usize>, Vec<u32>)> = (0..used).map(|_| Default::default()).collect();
    let mut fold_of = memory::vec![usize::MAX; groups.count];
    let mut sizes = vec![0u32; used];
    for group in found {
        let fold = (0..used).min_by_key(|&fold| (folds[fold].0.len(), fold)).expect("a fold");
        for &query in &members[group as usize] {
            memory::push(&mut folds[fold].0, query);
            memory::push(&mut folds[fold].1, sizes[fold]);
        }
        sizes[fold] += 1;
        fold_of[group as usize] = fold;
    }
    let cuts = folds.into_iter().enumerate().map(|(number, (held, numbers))| {
        let learns = |&query: &usize| {
            let fold = fold_of[groups.of[query] as usize];
            if shared { fold == usize::MAX } else { fold != number }
        };
        let train = memory::collect((0..task.log.len()).filter(learns));
        Cut { held, groups: numbers, train }
    });
    memory::collect(cuts.filter(|cut| !cut.train.is_empty()))
}

/// How well the plain ranking does on the held-back queries, and with permuted clicks.
fn plain_trace(task: &Task<'_>, cuts: &[Cut], rule: Rule) -> Trace {
    let parts: Vec<Part> = memory::collect(cuts.iter().enumerate().map(|(number, cut)| {
        let held = task.log.subset(&cut.held);
        let plain = task.space.scores(held.queries(), task.docs);
        let lists = threads::map(held.len(), |row| {
            let heads = best(&plain[row * task.columns()..][..task.columns()], DEPTH, None);
            let (plain, docs): (Vec<f32>, Vec<u32>) = heads.into_iter().unzip();
            Trial { list: Shortlist { docs, plain, ..Shortlist::default() }, group: cut.groups[row] }
        });
        let judged = judged(task, cut, |_| false);
        Part::new(lists, judged, rule.permutations, task.seed, number as u64)
    }));
    guard::trace(&parts, &[Candidate::PLAIN]).pop().expect("one candidate")
}

/// What the groups of a fold were clicked for: the mean grades of their queries.
fn judged(task: &Task<'_>, cut: &Cut, cold: impl Fn(u32) -> bool) -> Vec<Judged> {
    let pairs: Vec<(usize, u32)> = cut.held.iter().copied().zip(cut.groups.iter().copied()).collect();
    let groups = pairs.chunk_by(|a, b| a.1 == b.1).map(|members| {
        let mut grades: BTreeMap<u32, f32> = BTreeMap::new();
        for &(query, _) in members {
            for (doc, grade) in task.judged(query) {
                *grades.entry(doc).or_insert(0.0) += grade / members.len() as f32;
            }
        }
        let relevant: Vec<Graded> = memory::collect(grades);
        let cold = relevant.iter().copied().filter(|&(doc, _)| cold(doc)).collect();
        Judged { relevant, cold }
    });
    memory::collect(groups)
}

/// What the chosen candidate gains on held-back queries that have others like them, if the memory knows those: models are
/// those of the fold, and the query itself is left out. With the number of such queries.
fn familiar(
    task: &Task<'_>,
    folds: &[Fold<'_>],
    scored: &[Scored],
    candidate: Candidate,
) -> (Estimate, usize) {
    let memory = Memory::of(task.log.copied());
    let mut gains = Vec::new();
    for (number, fold) in folds.iter().enumerate() {
        let held = &fold.cut.held;
        let nearest = memory.nearest_of(fold.held.queries(), |row| Some(held[row] as u32));
        let trials = fold.trials(scored.get(number), &nearest, &memory);
        for (row, trial) in trials.iter().enumerate() {
            let (group, groups) = (fold.cut.groups[row], &fold.cut.groups);
            let alone = (row == 0 || groups[row - 1] != group) && groups.get(row + 1) != Some(&group);
            if !alone {
                let relevant = task.judged(held[row]);
                let of = |candidate| ndcg(&trial.list.ranking(candidate), &relevant);
                memory::push(&mut gains, of(candidate) - of(Candidate::PLAIN));
            }
        }
    }
    (Estimate::of(gains.iter().copied()), gains.len())
}

/// The best weight of the neighbours' mean over the chosen candidate, if any is sure to help it.
fn smoothed(parts: &[Part], chosen: Candidate, without: &Trace, rule: Rule) -> Option<(Candidate, Trace)> {
    let candidates = chosen.smoothed();
    let traces = guard::trace(parts, &candidates);
    let verdict = Verdict::new(without, &traces, rule);
    let sure = (0..traces.len()).filter(|&candidate| verdict.is_sure_of_smooth(candidate));
    let most = sure.max_by(|&a, &b| verdict.gains[a].mean.total_cmp(&verdict.gains[b].mean))?;
    traces.into_iter().nth(most).map(|trace| (candidates[most], trace))
}

/// Trains without each fold until the held-back rankings stop improving; the steps for the whole log, and the
/// scores of the best models.
fn judge(task: &Task<'_>, folds: &[Fold<'_>], monitor: &mut dyn Monitor) -> Result<(usize, Vec<Scored>)> {
    let length = folds[0].train.len();
    let epoch = length.div_ceil(batch_size(length));
    let look = (((LOOK as f64 / epoch as f64).round() as usize).max(1) * epoch).min(LONGEST_LOOK);
    let looks = (EPOCHS * epoch).min(STEPS).div_ceil(look);
    let mut pairs = Vec::new();
    let shared = folds.iter().all(|fold| fold.cut.train == folds[0].cut.train);
    let taught = if shared { &folds[..1] } else { folds };
    for (run, fold) in taught.iter().enumerate() {
        let lesson = Lesson { space: task.space, docs: task.docs, log: &fold.train, clicks: &fold.clicks };
        let pair = |edges| Training::new(lesson, edges, task.seed, run as u64 + 1);
        pairs.push((pair(true)?, pair(false)?));
    }
    let total = looks * look * taught.len() * 2;
    let (mut done, mut top, mut top_look) = (0usize, f64::NEG_INFINITY, 0);
    // Each fold keeps the models of the look that is best for the others: its own queries then judge what they did not choose.
    let mut kept: Vec<(f64, Option<Scored>)> = folds.iter().map(|_| (f64::NEG_INFINITY, None)).collect();
    for number in 1..=looks {
        let mut scored = Vec::new();
        for (run, pair) in pairs.iter_mut().enumerate() {
            for training in [&mut pair.0, &mut pair.1] {
                training.advance(look, &mut |loss| {
                    done += 1;
                    monitor.step(done, total, &[("loss", loss)])
                })?;
            }
            let (edge, adapter) = (pair.0.model(), pair.1.model());
            let judges = if shared { folds } else { &folds[run..=run] };
            scored.extend(judges.iter().map(|fold| fold.score(task, &edge, &adapter)));
        }
        let qualities: Vec<Vec<f64>> =
            memory::collect(folds.iter().zip(&scored).map(|(fold, scored)| fold.quality(task, scored)));
        let mean_without = |left_out: Option<usize>| {
            let others = qualities.iter().enumerate().filter(|(fold, _)| Some(*fold) != left_out);
            Estimate::of(others.flat_map(|(_, values)| values.iter().copied())).mean
        };
        for (fold, (kept, scored)) in kept.iter_mut().zip(scored).enumerate() {
            let others = mean_without((folds.len() > 1).then_some(fold));
            if others > kept.0 {
                *kept = (others, Some(scored));
            }
        }
        let mean = mean_without(None);
        monitor.step(done, total, &[("ndcg@10", mean)])?;
        if mean > top {
            (top, top_look) = (mean, number);
        } else if number - top_look >= PATIENCE {
            break;
        }
    }
    let kept = memory::collect(kept.into_iter().map(|(_, scored)| scored.expect("a look at least")));
    let steps = (top_look * look * task.log.len()) as f64 / length as f64;
    Ok((steps.round() as usize, kept))
}

fn train_all(task: &Task<'_>, steps: usize, monitor: &mut dyn Monitor) -> Result<Models> {
    let clicks = Clicks::of(task.log);
    let lesson = Lesson { space: task.space, docs: task.docs, log: task.log, clicks: &clicks };
    let mut done = 0usize;
    let mut train = |edges| -> Result<Model> {
        let mut training = Training::new(lesson, edges, task.seed, 0)?;
        training.advance(steps, &mut |loss| {
            done += 1;
            monitor.step(done, 2 * steps, &[("loss", loss)])
        })?;
        Ok(training.model())
    };
    Ok(Models { edge: train(true)?, adapter: train(false)? })
}

impl<'a> Fold<'a> {
    fn new(task: &Task<'_>, cut: &'a Cut) -> Self {
        let (train, held) = (task.log.subset(&cut.train), task.log.subset(&cut.held));
        let plain = task.space.scores(held.queries(), task.docs);
        let memory = Memory::of(train.copied());
        let nearest = memory.nearest_of(held.queries(), |_| None);
        let clicks = Clicks::of(&train);
        let pulled = Pulled::new(task, &clicks, &held);
        let neighbors = task.space.scores(held.queries(), task.neighbors);
        let judged = judged(task, cut, |doc| clicks.place(doc).is_none());
        Self { cut, clicks, train, held, judged, plain, pulled, neighbors, nearest, memory }
    }

    fn score(&self, task: &Task<'_>, edge: &Model, adapter: &Model) -> Scored {
        let (space, queries) = (task.space, self.held.queries());
        let docs = edge.docs(space, task.docs, &self.clicks);
        Scored {
            edge: space.scores(&edge.queries(space, queries), &docs),
            adapter: space.scores(&adapter.queries(space, queries), task.docs),
        }
    }

    /// The places of query `row` in tables of scores.
    fn range(&self, row: usize) -> std::ops::Range<usize> {
        let columns = self.plain.len() / self.held.len();
        row * columns..(row + 1) * columns
    }

    /// nDCG@10 of each held-back query under the even sum of both models with the memory.
    fn quality(&self, task: &Task<'_>, scored: &Scored) -> Vec<f64> {
        threads::map(self.held.len(), |row| {
            let range = self.range(row);
            let pairs = scored.edge[range.clone()].iter().zip(&scored.adapter[range]);
            let mut scores: Vec<f32> = memory::collect(pairs.map(|(edge, adapter)| 0.5 * (edge + adapter)));
            let votes = self.memory.votes(&self.nearest[row], VOTERS[0]);
            votes.iter().for_each(|(&doc, vote)| scores[doc as usize] += MEMORY * vote);
            let ranking: Vec<u32> =
                memory::collect(best(&scores, DEPTH, None).into_iter().map(|(_, doc)| doc));
            ndcg(&ranking, &task.judged(self.cut.held[row]))
        })
    }

    /// The shortlists of the held-back queries, with the votes of their nearest past queries in `memory`.
    fn trials(&self, scored: Option<&Scored>, nearest: &[Vec<(f32, u32)>], memory: &Memory) -> Vec<Trial> {
        require_margin();
        let cold = |doc: u32| self.clicks.place(doc).is_none();
        threads::map(self.held.len(), |row| {
            let range = self.range(row);
            let plain = &self.plain[range.clone()];
            let scores = Scores {
                plain,
                adapter: scored.map_or(plain, |scored| &scored.adapter[range.clone()]),
                edge: scored.map_or(plain, |scored| &scored.edge[range.clone()]),
                pulled: memory::collect(
                    PULLS.iter().map(|&pull| self.pulled.scores(&self.clicks, row, plain, pull)),
                ),
                neighbors: &self.neighbors[range],
            };
            let votes = VOTERS.map(|voters| memory.votes(&nearest[row], voters));
            Trial { list: shortlist(&scores, &votes, cold), group: self.cut.groups[row] }
        })
    }
}

/// What the untrained click edges add to the scores of clicked documents, for any gate.
struct Pulled {
    geometry: Geometry,
    /// `<q, S>`, held-back queries by clicked documents.
    products: Vec<f32>,
    /// `<x, x>`, `<x, S>` and `<S, S>` of each clicked document.
    squares: Vec<[f32; 3]>,
}

impl Pulled {
    fn new(task: &Task<'_>, clicks: &Clicks, held: &Log) -> Self {
        let (dim, dot) = (held.dim(), simd::kernels().dot);
        let rows = clicks.docs().iter().zip(clicks.sums().chunks_exact(dim)).map(|(&doc, sum)| {
            let own = &task.docs[doc as usize * dim..][..dim];
            [dot(own, own), dot(own, sum), dot(sum, sum)]
        });
        Self {
            geometry: task.space.geometry,
            products: products(held.queries(), clicks.sums(), dim),
            squares: memory::collect(rows),
        }
    }

    /// The scores of all documents for the held-back query `row`, given those of the plain metric.
    fn scores(&self, clicks: &Clicks, row: usize, plain: &[f32], gate: f32) -> Vec<f32> {
        let mut scores = memory::copy_of(plain);
        let products = &self.products[row * clicks.len()..][..clicks.len()];
        for (place, (&doc, product)) in clicks.docs().iter().zip(products).enumerate() {
            let (pull, [own, both, sum]) = (clicks.pull(place, gate), self.squares[place]);
            let score = &mut scores[doc as usize];
            match self.geometry {
                Geometry::Ip => *score += pull * product,
                // `<q, h> - |h|^2 / 2`.
                Geometry::L2 => *score += pull * product - pull * both - 0.5 * pull * pull * sum,
                Geometry::Cosine => {
                    let square = own + 2.0 * pull * both + pull * pull * sum;
                    *score = (*score + pull * product) / square.max(f32::MIN_POSITIVE).sqrt();
                }
            }
        }
        scores
    }
}

/// `(rows of a, rows of b)` products.
fn products(a: &[f32], b: &[f32], dim: usize) -> Vec<f32> {
    let (rows, columns) = (a.len() / dim, b.len() / dim);
    let mut products = memory::vec![0.0; rows * columns];
    matmul_into(MatRef::new(a, rows, dim), MatRef::new(b, columns, dim).t(), &mut products, false);
    products
}

/// The scores of all documents for one query.
struct Scores<'a> {
    plain: &'a [f32],
    adapter: &'a [f32],
    edge: &'a [f32],
    /// With each of [`PULLS`].
    pulled: Vec<Vec<f32>>,
    neighbors: &'a [f32],
}

/// The heads of all rankings of one query that candidates are made of.
fn shortlist(scores: &Scores<'_>, votes: &[BTreeMap<u32, f32>], cold: impl Fn(u32) -> bool) -> Shortlist {
    let head = |scores: &[f32]| best(scores, LISTED, None).into_iter().map(|(_, doc)| doc);
    let mut docs: Vec<u32> = head(scores.plain).collect();
    scores.pulled.iter().for_each(|pulled| docs.extend(head(pulled)));
    if !std::ptr::eq(scores.plain, scores.adapter) {
        docs.extend(head(scores.adapter).chain(head(scores.edge)));
        let bonus = |doc: usize| if cold(doc as u32) { LIFT } else { 0.0 };
        let both = scores.adapter.iter().zip(scores.edge).enumerate();
        let lifted: Vec<f32> =
            memory::collect(both.map(|(doc, (adapter, edge))| adapter + edge + bonus(doc)));
        docs.extend(head(&lifted));
    }
    for votes in votes {
        let (voted, strength): (Vec<u32>, Vec<f32>) = votes.iter().map(|(doc, vote)| (*doc, *vote)).unzip();
        docs.extend(head(&strength).map(|at| voted[at as usize]));
    }
    docs.sort_unstable();
    docs.dedup();
    let of = |scores: &[f32]| -> Vec<f32> { memory::collect(docs.iter().map(|&doc| scores[doc as usize])) };
    let voted = |votes: &BTreeMap<u32, f32>| -> Vec<f32> {
        memory::collect(docs.iter().map(|doc| votes.get(doc).copied().unwrap_or(0.0)))
    };
    Shortlist {
        plain: of(scores.plain),
        adapter: of(scores.adapter),
        edge: of(scores.edge),
        votes: memory::collect(votes.iter().map(voted)),
        cold: memory::collect(docs.iter().map(|&doc| f32::from(u8::from(cold(doc))))),
        pulled: memory::collect(scores.pulled.iter().map(|pulled| of(pulled))),
        neighbors: of(scores.neighbors),
        docs,
    }
}

fn report(candidates: &[Candidate], traces: &[Trace], gains: &[Estimate], chosen: usize) -> Report {
    let cold = |trace: &Trace| {
        if trace.cold.iter().all(|value| value.is_nan()) {
            return f64::NAN;
        }
        Estimate::of(trace.cold.iter().copied()).mean
    };
    let mut families: Vec<(String, f64, Estimate)> = Vec::new();
    for ((candidate, trace), gain) in candidates.iter().zip(traces).zip(gains) {
        let row = (candidate.family().to_string(), trace.mean(), *gain);
        match families.iter_mut().find(|family| family.0 == row.0) {
            Some(family) if family.1 < row.1 => *family = row,
            Some(_) => {}
            None => families.push(row),
        }
    }
    Report {
        held_back: traces[0].own.len(),
        tried: candidates.len(),
        plain: traces[0].mean(),
        learned: traces[chosen].mean(),
        gain: gains[chosen],
        plain_cold: cold(&traces[0]),
        learned_cold: cold(&traces[chosen]),
        chosen: candidates[chosen].describe(),
        promoted: chosen != 0,
        families,
        ..Report::default()
    }
}
