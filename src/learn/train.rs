//! Training one model on the gradient tape.
//!
//! The query adapter ranks with `q' = settle(q + q A)`; with click edges documents become
//! `h_d = settle(x_d + g c_d W)`, `c_d = S_d / (n_d + abs(c))`. From `A = 0`, `W = I`, `g = 0` both start as the plain
//! metric. The loss is the softmax cross entropy of `score / T`, uniform over what a query was clicked for:
//! with edges over all documents, without over the clicked ones (documents that nobody has clicked yet are not taught as
//! wrong). With edges, a batch's own clicks are left out of `c_d` and `n_d`, or the model would learn to read the answer, and all
//! clicks of half of its documents are dropped, which is what makes it serve documents that nobody has clicked.

#![forbid(unsafe_code)]

use super::clicks::{self, Clicks};
use super::log::Log;
use super::model::{Edges, Model};
use super::space::{Geometry, Space};
use crate::autograd::Tensor;
use crate::error::Result;
use crate::losses::{Reduction, Targets, cross_entropy};
use crate::memory;
use crate::optim::{AdamW, AdamWOptions, Group, Optimizer, clip_grad_norm};
use crate::rng::{Rng, stream};

/// Up to this many documents the softmax runs over all.
const FULL: usize = 8192;
/// Beyond, over the batch's clicked documents and this many others.
const NEGATIVES: usize = 1024;
/// Smaller logs train with smaller batches and a shorter average.
const SMALL_LOG: usize = 1000;
const MATRIX_RATE: f64 = 5e-4;
const SCALAR_RATE: f64 = 1e-2;
const CLIP: f64 = 5.0;
const TEMPERATURE: f32 = 0.05;
const DROPPED: f64 = 0.5;

/// What a model is trained on: a log and documents in the learner's space, numbered alike.
#[derive(Clone, Copy, Debug)]
pub struct Lesson<'a> {
    /// The space of queries and documents.
    pub space: &'a Space,
    /// The documents, row by row.
    pub docs: &'a [f32],
    /// The past queries.
    pub log: &'a Log,
    /// Their click edges.
    pub clicks: &'a Clicks,
}

/// One model in training.
pub struct Training<'a> {
    lesson: Lesson<'a>,
    adapter: Tensor<f32>,
    heat: Tensor<f32>,
    edges: Option<EdgeTensors>,
    optimizer: AdamW<f32>,
    tables: Option<Tables>,
    average: Vec<Vec<f32>>,
    steps: usize,
    batch: usize,
    order: Vec<usize>,
    next: usize,
    rng: Rng,
}

struct EdgeTensors {
    map: Tensor<f32>,
    gate: Tensor<f32>,
    shrink: Tensor<f32>,
}

/// The documents of one softmax: clicked ones by place, then others.
struct Tables {
    places: Vec<u32>,
    clicked: Tensor<f32>,
    rest: Option<Tensor<f32>>,
}

/// Queries per step for a log of this length.
pub fn batch_size(queries: usize) -> usize {
    if queries < SMALL_LOG { 64 } else { 128 }
}

impl<'a> Training<'a> {
    /// An untrained model, with click edges or without.
    pub fn new(lesson: Lesson<'a>, with_edges: bool, seed: u64, run: u64) -> Result<Self> {
        let dim = lesson.space.dim();
        let adapter = Tensor::parameter(memory::vec![0.0; dim * dim], &[dim, dim])?;
        let heat = Tensor::parameter(vec![TEMPERATURE.ln()], &[1])?;
        let (mut matrices, mut scalars) = (vec![adapter.clone()], vec![heat.clone()]);
        let edges = if with_edges {
            let identity =
                memory::collect((0..dim * dim).map(|at| if at % (dim + 1) == 0 { 1.0 } else { 0.0 }));
            let edges = EdgeTensors {
                map: Tensor::parameter(identity, &[dim, dim])?,
                gate: Tensor::parameter(vec![0.0], &[1])?,
                shrink: Tensor::parameter(vec![1.0], &[1])?,
            };
            matrices.push(edges.map.clone());
            scalars.extend([edges.gate.clone(), edges.shrink.clone()]);
            Some(edges)
        } else {
            None
        };
        let average = memory::collect(matrices.iter().chain(&scalars).map(Tensor::to_vec));
        let group = |parameters, lr| Group { parameters, lr, weight_decay: 0.0 };
        let optimizer = AdamW::with_groups(
            vec![group(matrices, MATRIX_RATE), group(scalars, SCALAR_RATE)],
            AdamWOptions::default(),
        )?;
        let mut training = Self {
            lesson,
            adapter,
            heat,
            edges,
            optimizer,
            tables: None,
            average,
            steps: 0,
            batch: batch_size(lesson.log.len()),
            order: memory::collect(0..lesson.log.len()),
            next: usize::MAX,
            rng: stream(seed, "learn", 2 * run + u64::from(with_edges)),
        };
        if lesson.docs.len() / dim <= FULL {
            let places: Vec<u32> = memory::collect(0..lesson.clicks.len() as u32);
            let rest =
                (0..(lesson.docs.len() / dim) as u32).filter(|&doc| lesson.clicks.place(doc).is_none());
            training.tables = Some(training.gather(places, memory::collect(rest))?);
        }
        Ok(training)
    }

    /// Takes steps; `watch` hears the loss of each and may stop the work.
    pub fn advance(&mut self, steps: usize, watch: &mut dyn FnMut(f64) -> Result<()>) -> Result<()> {
        for _ in 0..steps {
            let numbers = self.next_batch();
            let loss = self.step(&numbers)?;
            watch(loss)?;
        }
        Ok(())
    }

    /// The model with averaged weights.
    pub fn model(&self) -> Model {
        let edges = self.edges.is_some().then(|| Edges {
            map: memory::copy_of(&self.average[1]),
            gate: self.average[3][0],
            shrink: self.average[4][0].abs(),
        });
        Model { adapter: memory::copy_of(&self.average[0]), edges }
    }

    fn next_batch(&mut self) -> Vec<usize> {
        if self.next >= self.order.len() {
            self.rng.shuffle(&mut self.order);
            self.next = 0;
        }
        let end = (self.next + self.batch).min(self.order.len());
        let numbers = memory::copy_of(&self.order[self.next..end]);
        self.next = end;
        numbers
    }

    fn step(&mut self, numbers: &[usize]) -> Result<f64> {
        let drawn = if self.tables.is_some() { None } else { Some(self.draw(numbers)?) };
        let tables = drawn.as_ref().or(self.tables.as_ref()).expect("either is there");
        let (dim, space) = (self.lesson.space.dim(), self.lesson.space);
        let queries: Vec<f32> =
            memory::collect(numbers.iter().flat_map(|&number| self.lesson.log.query(number)).copied());
        let queries = Tensor::new(queries, &[numbers.len(), dim])?;
        let queries = settle(space, &queries.add(&queries.matmul(&self.adapter)?)?)?;
        let targets = self.targets(numbers, tables);
        let scores = match &self.edges {
            None => scores(space, &queries, &tables.clicked)?,
            Some(edges) => {
                let mixed = mix(&self.lesson, edges, tables, numbers, &mut self.rng)?;
                let clicked = scores(space, &queries, &mixed)?;
                match &tables.rest {
                    None => clicked,
                    Some(rest) => Tensor::concat(&[clicked, scores(space, &queries, rest)?], 1)?,
                }
            }
        };
        let logits = scores.mul(&self.heat.neg()?.exp()?)?;
        let loss = cross_entropy(&logits, targets, Reduction::Mean)?;
        self.optimizer.zero_grad();
        loss.backward()?;
        clip_grad_norm(&self.optimizer.parameters(), CLIP)?;
        self.optimizer.step()?;
        self.remember();
        Ok(f64::from(loss.item()?))
    }

    /// The running average of the weights, which starts as a plain mean.
    fn remember(&mut self) {
        self.steps += 1;
        let most: f32 = if self.lesson.log.len() < SMALL_LOG { 0.98 } else { 0.99 };
        let keep = most.min(self.steps as f32 / (self.steps as f32 + 10.0));
        for (average, parameter) in self.average.iter_mut().zip(self.optimizer.parameters()) {
            let values = parameter.values();
            average
                .iter_mut()
                .zip(values.iter())
                .for_each(|(sum, &value)| *sum += (value - *sum) * (1.0 - keep));
        }
    }

    /// Which columns of the scores a batch was clicked for.
    fn targets(&self, numbers: &[usize], tables: &Tables) -> Targets<f32> {
        let full = tables.places.len() == self.lesson.clicks.len();
        let column = |doc: u32| {
            let place = self.lesson.clicks.place(doc).expect("clicks of the log") as u32;
            if full { place as usize } else { tables.places.partition_point(|&other| other < place) }
        };
        let log = self.lesson.log;
        if numbers.iter().all(|&number| log.weights(number).all(|(_, weight)| weight == 1.0)) {
            let (mut indptr, mut classes) = (vec![0], Vec::new());
            for &number in numbers {
                log.clicks(number).for_each(|(doc, _)| memory::push(&mut classes, column(doc) as u32));
                indptr.push(classes.len());
            }
            return Targets::Sets { indptr, classes };
        }
        let rest =
            if self.edges.is_some() { tables.rest.as_ref().map_or(0, |rest| rest.dims()[0]) } else { 0 };
        let columns = tables.places.len() + rest;
        let mut shares = memory::vec![0.0; numbers.len() * columns];
        for (row, &number) in shares.chunks_exact_mut(columns).zip(numbers) {
            let total: f32 = log.clicks(number).map(|(_, grade)| grade).sum();
            log.clicks(number).for_each(|(doc, grade)| row[column(doc)] = grade / total);
        }
        Targets::Soft(shares)
    }

    /// The batch's clicked documents and others drawn at random.
    fn draw(&mut self, numbers: &[usize]) -> Result<Tables> {
        let Lesson { clicks, log, docs, space } = self.lesson;
        let count = (docs.len() / space.dim()) as u64;
        let place = |doc: u32| clicks.place(doc).map(|at| at as u32);
        let own = numbers.iter().flat_map(|&number| log.clicks(number));
        let mut places: Vec<u32> = memory::collect(own.filter_map(|(doc, _)| place(doc)));
        let mut rest = Vec::new();
        for _ in 0..NEGATIVES {
            // Half among the clicked documents: they are what the others' queries look for.
            if self.edges.is_none() || self.rng.below(2) == 0 {
                places.push(self.rng.below(clicks.len() as u64) as u32);
            } else {
                let doc = self.rng.below(count) as u32;
                place(doc).map_or_else(|| rest.push(doc), |at| places.push(at));
            }
        }
        for list in [&mut places, &mut rest] {
            list.sort_unstable();
            list.dedup();
        }
        self.gather(places, rest)
    }

    fn gather(&self, places: Vec<u32>, rest: Vec<u32>) -> Result<Tables> {
        let Lesson { clicks, docs, space, .. } = self.lesson;
        let dim = space.dim();
        let table = |numbers: &mut dyn Iterator<Item = u32>| -> Result<Tensor<f32>> {
            let rows: Vec<f32> =
                memory::collect(numbers.flat_map(|doc| &docs[doc as usize * dim..][..dim]).copied());
            let count = rows.len() / dim;
            Tensor::new(rows, &[count, dim])
        };
        let clicked = table(&mut places.iter().map(|&place| clicks.docs()[place as usize]))?;
        let rest = if rest.is_empty() { None } else { Some(table(&mut rest.into_iter())?) };
        Ok(Tables { places, clicked, rest })
    }
}

/// The clicked documents of a step with what their clicks, less the batch's own, say.
fn mix(
    lesson: &Lesson<'_>,
    edges: &EdgeTensors,
    tables: &Tables,
    numbers: &[usize],
    rng: &mut Rng,
) -> Result<Tensor<f32>> {
    let (dim, clicks) = (lesson.space.dim(), lesson.clicks);
    let full = tables.places.len() == clicks.len();
    let (mut sums, mut counts) = if full {
        (memory::copy_of(clicks.sums()), memory::copy_of(clicks.counts()))
    } else {
        let rows = tables.places.iter().flat_map(|&at| &clicks.sums()[at as usize * dim..][..dim]);
        let counts = tables.places.iter().map(|&at| clicks.counts()[at as usize]);
        (memory::collect(rows.copied()), memory::collect(counts))
    };
    let row_of = |place: usize| {
        if full { Some(place) } else { tables.places.binary_search(&(place as u32)).ok() }
    };
    for row in clicks.leave_out(lesson.log, numbers, row_of, &mut sums, &mut counts) {
        if rng.uniform() < DROPPED {
            clicks::clear(dim, row, &mut sums, &mut counts);
        }
    }
    let rows = counts.len();
    let (sums, counts) = (Tensor::new(sums, &[rows, dim])?, Tensor::new(counts, &[rows, 1])?);
    let message = sums.matmul(&edges.map.mul(&edges.gate)?)?.div(&counts.add(&edges.shrink.abs()?)?)?;
    settle(lesson.space, &tables.clicked.add(&message)?)
}

fn settle(space: &Space, rows: &Tensor<f32>) -> Result<Tensor<f32>> {
    if space.geometry == Geometry::Cosine { rows.normalize() } else { Ok(rows.clone()) }
}

/// `(queries, docs)`.
fn scores(space: &Space, queries: &Tensor<f32>, docs: &Tensor<f32>) -> Result<Tensor<f32>> {
    let scores = queries.matmul(&docs.transpose()?)?;
    if space.geometry != Geometry::L2 {
        return Ok(scores);
    }
    scores.sub(&docs.mul(docs)?.sum_axis(1, false)?.affine(0.5, 0.0)?)
}
