//! From a log to a ranking: train on most of the log, judge on the rest, then train on all of it.
//!
//! Both models are trained side by side without each fold; now and then the held-back queries are ranked by their
//! even sum with the memory, and training stops when that has not improved for a while. Then the guard compares
//! all candidates on the held-back queries, and the chosen one is trained again on the whole log.

#![forbid(unsafe_code)]

use super::clicks::Clicks;
use super::guard::{self, Candidate, DEPTH, Estimate, Gain, OTHERS, Shortlist, Trace, Trial, ndcg};
use super::log::Log;
use super::memory::{Memory, best, require_margin};
use super::model::Model;
use super::space::Space;
use super::stage::{Stage, WHOLE};
use super::train::{Lesson, Training, batch_size};
use crate::error::Result;
use crate::memory;
use crate::monitor::Monitor;
use crate::rng::stream;
use crate::threads;
use std::collections::BTreeMap;

/// Fewer past queries train no model; the memory alone is judged.
const FEWEST: usize = 40;
/// Judging stops at this many held-back queries.
const HELD_BACK: usize = 800;
/// Queries that leave-one-out judges the memory on.
const LEFT_OUT: usize = 3000;
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
    /// Past queries in the log.
    pub queries: usize,
    /// Queries that candidates were judged on.
    pub held_back: usize,
    /// Steps that the promoted models were trained for.
    pub steps: usize,
    /// The plain ranking.
    pub plain: f64,
    /// The chosen ranking; the plain one if none was promoted.
    pub learned: f64,
    /// The mean paired difference of the chosen ranking and its standard error.
    pub gain: Estimate,
    /// The plain ranking on clicks that lead to documents never clicked otherwise (NaN if there are none).
    pub plain_cold: f64,
    /// The chosen ranking on those.
    pub learned_cold: f64,
    /// The chosen ranking in words.
    pub chosen: String,
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
    /// Which past queries may judge, because their clicks do not follow the order that was shown; `None` for all.
    pub judges: Option<&'a [bool]>,
    /// What every random choice comes from.
    pub seed: u64,
}

impl Task<'_> {
    fn may_judge(&self, query: usize) -> bool {
        self.judges.is_none_or(|judges| judges[query])
    }
}

/// The queries of one fold: trained without, judged on.
struct Fold {
    train: Log,
    clicks: Clicks,
    held: Log,
    plain: Vec<f32>,
    centroid: Vec<f32>,
    neighbors: Vec<f32>,
    votes: Vec<BTreeMap<u32, f32>>,
}

/// Scores of a fold's held-back queries.
struct Scored {
    edge: Vec<f32>,
    adapter: Vec<f32>,
}

/// Chooses and trains a ranking.
pub fn fit(task: Task<'_>, monitor: &mut dyn Monitor) -> Result<Fitted> {
    let count = task.log.len();
    let mut order: Vec<usize> = memory::collect((0..count).filter(|&query| task.may_judge(query)));
    if order.len() < 2 {
        let report = Report { queries: count, chosen: Candidate::PLAIN.describe(), ..Report::default() };
        return Ok(Fitted { candidate: Candidate::PLAIN, models: None, report });
    }
    stream(task.seed, "folds", 0).shuffle(&mut order);
    let alone = Candidate::alone();
    let left_out = guard::trace(&leave_one_out(&task, &order), &alone);
    if order.len() < FEWEST {
        let gains: Vec<Gain> = memory::collect(left_out.iter().map(|trace| Gain::over(&left_out[0], trace)));
        let sure: Vec<bool> = memory::collect(gains.iter().map(Gain::is_sure));
        let chosen = guard::choose(&gains, &sure);
        let report = report(count, 0, &alone, &left_out, &gains, chosen);
        return Ok(Fitted { candidate: alone[chosen], models: None, report });
    }
    let folds = folds(&task, &order);
    let mut stage = Stage { monitor, start: 0, end: JUDGED };
    let (steps, trials) = judge(&task, &folds, &mut stage)?;
    let mut candidates = Candidate::all();
    let mut traces = guard::trace(&trials, &candidates);
    let mut gains: Vec<Gain> = memory::collect(traces.iter().map(|trace| Gain::over(&traces[0], trace)));
    let mut sure: Vec<bool> = memory::collect(gains.iter().map(Gain::is_sure));
    // The memory is not trained: leave-one-out judges it on far more queries than the folds hold back.
    for (at, trace) in left_out.iter().enumerate() {
        sure[at] = Gain::over(&left_out[0], trace).is_sure();
    }
    let mut chosen = guard::choose(&gains, &sure);
    if let Some((candidate, trace)) = smoothed(&trials, candidates[chosen], &traces[chosen]) {
        gains.push(Gain::over(&traces[0], &trace));
        candidates.push(candidate);
        traces.push(trace);
        chosen = traces.len() - 1;
    }
    let report = report(count, steps, &candidates, &traces, &gains, chosen);
    let candidate = candidates[chosen];
    let mut stage = Stage { monitor, start: JUDGED, end: WHOLE };
    let models = if candidate.edge.is_some() { Some(train_all(&task, steps, &mut stage)?) } else { None };
    Ok(Fitted { candidate, models, report })
}

/// The best weight of the neighbours' mean over the chosen candidate, if any is sure to help it.
fn smoothed(trials: &[Trial], chosen: Candidate, without: &Trace) -> Option<(Candidate, Trace)> {
    let candidates = chosen.smoothed();
    let traces = guard::trace(trials, &candidates);
    let judged = candidates.into_iter().zip(traces).map(|(candidate, trace)| {
        let gain = Gain::over(without, &trace);
        (gain.own.mean, gain.is_sure_of_smooth(), candidate, trace)
    });
    let sure = judged.filter(|judged| judged.1);
    sure.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, _, candidate, trace)| (candidate, trace))
}

/// The memory's trials: each query against the memory of all others.
fn leave_one_out(task: &Task<'_>, order: &[usize]) -> Vec<Trial> {
    let numbers: Vec<usize> = order.iter().copied().take(LEFT_OUT).collect();
    let held = task.log.subset(&numbers);
    let memory = Memory::of(task.log.copied());
    let votes = memory.votes_of(held.queries(), |i| Some(numbers[i] as u32));
    let columns = task.docs.len() / task.space.dim();
    let block = (1 << 24) / columns.max(1) + 1;
    let mut trials = memory::with_capacity(held.len());
    for start in (0..held.len()).step_by(block) {
        let end = (start + block).min(held.len());
        let queries = &held.queries()[start * held.dim()..end * held.dim()];
        let plain = task.space.scores(queries, task.docs);
        require_margin();
        trials.extend(threads::map(end - start, |row| {
            let plain = &plain[row * columns..][..columns];
            let list = shortlist(&Scores::of(plain), &votes[start + row], |_| false);
            trial(&held, start + row, list, |_| false)
        }));
    }
    compare_with_others(&mut trials);
    trials
}

fn folds(task: &Task<'_>, order: &[usize]) -> Vec<Fold> {
    let count = order.len();
    let parts = if count < 1600 { 8 } else { (count / 1000).max(4) };
    let used = HELD_BACK.div_ceil(count / parts).min(parts);
    let fold = |part: usize| {
        let pick = |held: bool| -> Vec<usize> {
            let of = |at: &usize| (at % parts == part) == held;
            memory::collect((0..count).filter(of).map(|at| order[at]))
        };
        let mut learned = pick(false);
        (0..task.log.len())
            .filter(|&query| !task.may_judge(query))
            .for_each(|query| memory::push(&mut learned, query));
        let (train, held) = (task.log.subset(&learned), task.log.subset(&pick(true)));
        let plain = task.space.scores(held.queries(), task.docs);
        let votes = Memory::of(train.copied()).votes_of(held.queries(), |_| None);
        let clicks = Clicks::of(&train);
        let centroid = task.space.scores(held.queries(), &clicks.pulled(task.space, task.docs));
        let neighbors = task.space.scores(held.queries(), task.neighbors);
        Fold { clicks, train, held, plain, centroid, neighbors, votes }
    };
    (0..used).map(fold).collect()
}

/// Trains without each fold until the held-back rankings stop improving; the steps for the whole log, and the
/// trials under the best models.
fn judge(task: &Task<'_>, folds: &[Fold], monitor: &mut dyn Monitor) -> Result<(usize, Vec<Trial>)> {
    let length = folds[0].train.len();
    let epoch = length.div_ceil(batch_size(length));
    let look = (((LOOK as f64 / epoch as f64).round() as usize).max(1) * epoch).min(LONGEST_LOOK);
    let looks = (EPOCHS * epoch).min(STEPS).div_ceil(look);
    let mut pairs = Vec::new();
    for (run, fold) in folds.iter().enumerate() {
        let lesson = Lesson { space: task.space, docs: task.docs, log: &fold.train, clicks: &fold.clicks };
        let pair = |edges| Training::new(lesson, edges, task.seed, run as u64 + 1);
        pairs.push((pair(true)?, pair(false)?));
    }
    let total = looks * look * folds.len() * 2;
    let (mut done, mut top, mut top_look, mut kept) = (0usize, f64::NEG_INFINITY, 0, Vec::new());
    for number in 1..=looks {
        let mut scored = Vec::new();
        for (pair, fold) in pairs.iter_mut().zip(folds) {
            for training in [&mut pair.0, &mut pair.1] {
                training.advance(look, &mut |loss| {
                    done += 1;
                    monitor.step(done, total, &[("loss", loss)])
                })?;
            }
            scored.push(fold.score(task, &pair.0.model(), &pair.1.model()));
        }
        let values: Vec<f64> =
            memory::collect(folds.iter().zip(&scored).flat_map(|(fold, scored)| fold.quality(scored)));
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        monitor.step(done, total, &[("ndcg@10", mean)])?;
        if mean > top {
            (top, top_look, kept) = (mean, number, scored);
        } else if number - top_look >= PATIENCE {
            break;
        }
    }
    let mut trials: Vec<Trial> =
        memory::collect(folds.iter().zip(&kept).flat_map(|(fold, scored)| fold.trials(scored)));
    compare_with_others(&mut trials);
    let steps = (top_look * look * task.log.len()) as f64 / length as f64;
    Ok((steps.round() as usize, trials))
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

impl Fold {
    fn score(&self, task: &Task<'_>, edge: &Model, adapter: &Model) -> Scored {
        let (space, queries) = (task.space, self.held.queries());
        let docs = edge.docs(space, task.docs, &self.clicks);
        Scored {
            edge: space.scores(&edge.queries(space, queries), &docs),
            adapter: space.scores(&adapter.queries(space, queries), task.docs),
        }
    }

    fn columns(&self) -> usize {
        self.plain.len() / self.held.len()
    }

    /// nDCG@10 of each held-back query under the even sum of both models with the memory.
    fn quality(&self, scored: &Scored) -> Vec<f64> {
        let columns = self.columns();
        threads::map(self.held.len(), |row| {
            let range = row * columns..(row + 1) * columns;
            let pairs = scored.edge[range.clone()].iter().zip(&scored.adapter[range]);
            let mut scores: Vec<f32> = memory::collect(pairs.map(|(edge, adapter)| 0.5 * (edge + adapter)));
            self.votes[row].iter().for_each(|(&doc, vote)| scores[doc as usize] += MEMORY * vote);
            let ranking: Vec<u32> =
                memory::collect(best(&scores, DEPTH, None).into_iter().map(|(_, doc)| doc));
            ndcg(&ranking, &self.held.clicks(row).collect::<Vec<_>>())
        })
    }

    fn trials(&self, scored: &Scored) -> Vec<Trial> {
        require_margin();
        let columns = self.columns();
        let cold = |doc: u32| self.clicks.place(doc).is_none();
        threads::map(self.held.len(), |row| {
            let range = row * columns..(row + 1) * columns;
            let scores = Scores {
                plain: &self.plain[range.clone()],
                adapter: &scored.adapter[range.clone()],
                edge: &scored.edge[range.clone()],
                centroid: &self.centroid[range.clone()],
                neighbors: &self.neighbors[range],
            };
            let list = shortlist(&scores, &self.votes[row], cold);
            trial(&self.held, row, list, cold)
        })
    }
}

/// The scores of all documents for one query.
struct Scores<'a> {
    plain: &'a [f32],
    adapter: &'a [f32],
    edge: &'a [f32],
    centroid: &'a [f32],
    neighbors: &'a [f32],
}

impl<'a> Scores<'a> {
    /// The plain metric alone: everything else scores like it.
    fn of(plain: &'a [f32]) -> Self {
        Self { plain, adapter: plain, edge: plain, centroid: plain, neighbors: plain }
    }
}

/// The heads of all rankings of one query that candidates are made of.
fn shortlist(scores: &Scores<'_>, votes: &BTreeMap<u32, f32>, cold: impl Fn(u32) -> bool) -> Shortlist {
    let head = |scores: &[f32]| best(scores, LISTED, None).into_iter().map(|(_, doc)| doc);
    let mut docs: Vec<u32> = head(scores.plain).collect();
    if !std::ptr::eq(scores.plain, scores.adapter) {
        docs.extend(head(scores.adapter).chain(head(scores.edge)).chain(head(scores.centroid)));
        let bonus = |doc: usize| if cold(doc as u32) { LIFT } else { 0.0 };
        let both = scores.adapter.iter().zip(scores.edge).enumerate();
        let lifted: Vec<f32> =
            memory::collect(both.map(|(doc, (adapter, edge))| adapter + edge + bonus(doc)));
        docs.extend(head(&lifted));
    }
    let (voted, strength): (Vec<u32>, Vec<f32>) = votes.iter().map(|(doc, vote)| (*doc, *vote)).unzip();
    docs.extend(head(&strength).map(|at| voted[at as usize]));
    docs.sort_unstable();
    docs.dedup();
    let of = |scores: &[f32]| -> Vec<f32> { memory::collect(docs.iter().map(|&doc| scores[doc as usize])) };
    Shortlist {
        plain: of(scores.plain),
        adapter: of(scores.adapter),
        edge: of(scores.edge),
        memory: memory::collect(docs.iter().map(|doc| votes.get(doc).copied().unwrap_or(0.0))),
        cold: memory::collect(docs.iter().map(|&doc| f32::from(u8::from(cold(doc))))),
        centroid: of(scores.centroid),
        neighbors: of(scores.neighbors),
        docs,
    }
}

fn trial(held: &Log, row: usize, list: Shortlist, cold: impl Fn(u32) -> bool) -> Trial {
    let relevant: Vec<(u32, f32)> = held.clicks(row).collect();
    let cold = relevant.iter().copied().filter(|&(doc, _)| cold(doc)).collect();
    Trial { list, others: Vec::new(), cold, relevant }
}

/// Gives each trial the clicks of the next ones: trials come in random order.
fn compare_with_others(trials: &mut [Trial]) {
    let count = trials.len();
    for at in 0..count {
        let others = (1..count).take(OTHERS).map(|shift| trials[(at + shift) % count].relevant.clone());
        trials[at].others = memory::collect(others);
    }
}

fn report(
    queries: usize,
    steps: usize,
    candidates: &[Candidate],
    traces: &[Trace],
    gains: &[Gain],
    chosen: usize,
) -> Report {
    let mean = |values: &[f64]| Estimate::of(values.iter().copied()).mean;
    let cold =
        |trace: &Trace| if trace.cold.iter().all(|v| v.is_nan()) { f64::NAN } else { mean(&trace.cold) };
    let mut families: Vec<(String, f64, Estimate)> = Vec::new();
    for (at, candidate) in candidates.iter().enumerate() {
        let row = (candidate.family().to_string(), mean(&traces[at].own), gains[at].own);
        match families.iter_mut().find(|family| family.0 == row.0) {
            Some(family) if family.1 < row.1 => *family = row,
            Some(_) => {}
            None => families.push(row),
        }
    }
    Report {
        queries,
        held_back: traces[0].own.len(),
        steps,
        plain: mean(&traces[0].own),
        learned: mean(&traces[chosen].own),
        gain: gains[chosen].own,
        plain_cold: cold(&traces[0]),
        learned_cold: cold(&traces[chosen]),
        chosen: candidates[chosen].describe(),
        promoted: chosen != 0,
        families,
    }
}
