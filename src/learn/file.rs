//! Saving and loading a learner. The file is untrusted: lengths and numbers are checked before they are used.

#![forbid(unsafe_code)]

use super::SearchLearner;
use super::clicks::Clicks;
use super::fit::{Models, Report};
use super::guard::{Candidate, Estimate};
use super::log::Log;
use super::memory::{MOST, Memory, Voters};
use super::model::{Edges, Model};
use super::space::{Geometry, Space};
use super::state::{Neighbors, Origin, State, Table};
use crate::error::{Error, Result};
use crate::hnsw::HnswIndex;
use crate::memory;
use crate::storage::{Reader, Writer};
use serde_json::{Value, json};
use std::path::Path;

const KIND: &str = "learner";
/// Files before version 3 have one setting of the memory and of the untrained click edges, and fewer figures.
const VERSION: u32 = 3;
/// Numbers of a report before those of its families.
const FIGURES: usize = 9;
const FIGURES_BEFORE_3: usize = 6;

impl SearchLearner {
    /// Writes the learner in the place of `path`, atomically, with a digest of each row that it knows, as `index` holds
    /// it by now. The index is saved on its own. One of another dimension or metric is refused with [`Error::Config`].
    pub fn save(&self, path: impl AsRef<Path>, index: &HnswIndex) -> Result<()> {
        self.with_writer(index, |writer| writer.save(path))?
    }

    /// The bytes that [`save`](Self::save) writes.
    pub fn to_bytes(&self, index: &HnswIndex) -> Result<Vec<u8>> {
        self.with_writer(index, |writer| writer.to_bytes())
    }

    /// Reads what [`save`](Self::save) wrote, to serve beside `index`, which may have added, removed and updated rows
    /// since. One that has not handed out the rows of the index learned on, or holds other vectors at more than half of
    /// them, is refused with [`Error::Config`].
    pub fn load(path: impl AsRef<Path>, index: &HnswIndex) -> Result<Self> {
        Self::read(&Reader::open(path, KIND, VERSION)?, index)
    }

    /// As [`load`](Self::load), from what [`to_bytes`](Self::to_bytes) made.
    pub fn from_bytes(bytes: Vec<u8>, index: &HnswIndex) -> Result<Self> {
        Self::read(&Reader::from_bytes(bytes, KIND, VERSION)?, index)
    }

    fn with_writer<R>(&self, index: &HnswIndex, task: impl FnOnce(Writer<'_>) -> R) -> Result<R> {
        let config =
            |value: Value| Writer::new(KIND, VERSION).section("config", value.to_string().into_bytes());
        let Some(state) = &self.state else {
            return Ok(task(config(json!({ "seed": self.seed, "trained": false }))));
        };
        state.same_kind(index)?;
        let origin = state.origin.renewed(index)?;
        let log = state.memory.log();
        let report = state.figures();
        let indptr: Vec<u64> = memory::collect(log.indptr().iter().map(|&at| at as u64));
        let mut writer = config(state.config(self.seed))
            .values("report", &report)
            .values("row_digests", &origin.digests)
            .values("center", &state.space.center)
            .values("clicked_rows", state.clicks.docs())
            .values("click_counts", state.clicks.counts())
            .blocks("click_sums", state.clicks.sums())
            .blocks("messages", &state.messages)
            .blocks("past_queries", log.queries())
            .values("past_indptr", &indptr)
            .values("past_rows", log.docs())
            .values("past_grades", log.grades());
        if let Some(models) = &state.models {
            writer = writer
                .values("adapter", &models.adapter.adapter)
                .values("edge_adapter", &models.edge.adapter);
            if let Some(edges) = &models.edge.edges {
                writer = writer.values("edge_map", &edges.map);
            }
        }
        for (name, table) in [("clicked", &state.clicked), ("past", &state.past)] {
            match table {
                None => {}
                Some(Table::Few(rows)) => writer = writer.values(&format!("{name}_few"), rows),
                Some(Table::Many(index)) => {
                    writer = writer.section(&format!("{name}_many"), index.to_bytes())
                }
            }
        }
        if state.candidate.smooth != 0.0 {
            writer = writer
                .values("neighbor_rows", &state.neighbors.rows)
                .blocks("neighbor_means", &state.neighbors.means);
        }
        Ok(task(writer))
    }

    fn read(reader: &Reader, index: &HnswIndex) -> Result<Self> {
        let config = reader.section("config")?;
        let config: Value = serde_json::from_slice(&config).map_err(|how| reader.damaged(how))?;
        let seed = config["seed"].as_u64().ok_or_else(|| reader.damaged("config: seed is not a number"))?;
        let mut learner = Self::new(seed);
        if config["trained"] == json!(false) {
            return Ok(learner);
        }
        let state = Saved { reader, config: &config }.state()?;
        state.same_kind(index)?;
        if !state.origin.is_in(index)? {
            return Err(Error::Config(
                "load: the index is not the one that the learner was trained on (its rows hold other vectors)"
                    .into(),
            ));
        }
        learner.state = Some(std::sync::Arc::new(state));
        Ok(learner)
    }
}

impl State {
    /// The report's numbers, [`FIGURES`] and three for each family, as they are: text would round them.
    fn figures(&self) -> Vec<f64> {
        let report = &self.report;
        let (Estimate { mean, error }, familiar) = (report.gain, report.familiar.0);
        let head = [report.plain, report.learned, mean, error, report.plain_cold, report.learned_cold];
        let head = head.into_iter().chain([familiar.mean, familiar.error, report.agreement]);
        let families = report.families.iter().flat_map(|(_, mean, gain)| [*mean, gain.mean, gain.error]);
        head.chain(families).collect()
    }

    fn config(&self, seed: u64) -> Value {
        let geometry = match self.space.geometry {
            Geometry::Cosine => "cosine",
            Geometry::L2 => "l2",
            Geometry::Ip => "ip",
        };
        let edges = self.models.as_ref().and_then(|models| models.edge.edges.as_ref());
        let report = &self.report;
        let families: Vec<&str> = report.families.iter().map(|family| family.0.as_str()).collect();
        json!({
            "seed": seed, "trained": true, "geometry": geometry, "scale": self.space.scale,
            "edge": self.candidate.edge, "memory": self.candidate.memory, "cold": self.candidate.cold,
            "centroid": self.candidate.centroid, "smooth": self.candidate.smooth, "pull": self.candidate.pull,
            "neighbors": self.candidate.voters.neighbors, "width": self.candidate.voters.width,
            "gate": edges.map(|edges| edges.gate), "shrink": edges.map(|edges| edges.shrink),
            "report": {
                "queries": report.queries, "held_back": report.held_back, "steps": report.steps,
                "chosen": report.chosen, "promoted": report.promoted, "families": families,
                "tried": report.tried, "familiar": report.familiar.1, "refused": report.refused,
            },
        })
    }
}

/// A file that holds a trained state.
struct Saved<'a> {
    reader: &'a Reader,
    config: &'a Value,
}

impl Saved<'_> {
    fn number(&self, value: &Value, name: &str) -> Result<f64> {
        value[name].as_f64().ok_or_else(|| self.reader.damaged(format!("config: {name} is not a number")))
    }

    fn floats(&self, name: &str, count: usize) -> Result<Vec<f32>> {
        let values: Vec<f32> = self.reader.values(name)?;
        if values.len() != count {
            return Err(self
                .reader
                .damaged(format!("section {name:?}: {} values, expected {count}", values.len())));
        }
        if values.iter().any(|value| !value.is_finite()) {
            return Err(self.reader.damaged(format!("section {name:?} holds values that are not finite")));
        }
        Ok(values)
    }

    fn state(&self) -> Result<State> {
        let (reader, config) = (self.reader, self.config);
        let center: Vec<f32> = reader.values("center")?;
        let dim = center.len();
        let geometry = match config["geometry"].as_str() {
            Some("cosine") => Geometry::Cosine,
            Some("l2") => Geometry::L2,
            Some("ip") => Geometry::Ip,
            _ => return Err(reader.damaged("config: geometry is unknown")),
        };
        let scale = self.number(config, "scale")? as f32;
        if dim == 0 || !(scale > 0.0 && scale.is_finite()) || center.iter().any(|value| !value.is_finite()) {
            return Err(reader.damaged("the space has no dimension or no scale"));
        }
        let space = Space { geometry, center, scale };
        let clicks = self.clicks(dim)?;
        let memory = Memory::of(self.log(dim)?);
        let candidate = self.candidate()?;
        let models = if candidate.edge.is_some() { Some(self.models(dim)?) } else { None };
        let edges = candidate.edge.is_some_and(|share| share > 0.0);
        let messages = if edges { self.floats("messages", clicks.len() * dim)? } else { Vec::new() };
        let searched = edges || candidate.centroid > 0.0;
        let clicked = if searched { Some(self.table("clicked", clicks.len(), dim)?) } else { None };
        let past =
            if candidate.memory > 0.0 { Some(self.table("past", memory.log().len(), dim)?) } else { None };
        let (origin, report) = (Origin { digests: reader.values("row_digests")? }, self.report()?);
        let neighbors = if candidate.smooth == 0.0 { Neighbors::default() } else { self.neighbors(dim)? };
        Ok(State {
            space,
            candidate,
            models,
            clicks,
            messages,
            clicked,
            memory,
            past,
            neighbors,
            report,
            origin,
        })
    }

    fn neighbors(&self, dim: usize) -> Result<Neighbors> {
        let rows: Vec<u32> = self.reader.values("neighbor_rows")?;
        if rows.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(self.reader.damaged("section \"neighbor_rows\" does not rise"));
        }
        let means = self.floats("neighbor_means", rows.len().saturating_mul(dim))?;
        Ok(Neighbors { rows, means })
    }

    fn candidate(&self) -> Result<Candidate> {
        let edge =
            if self.config["edge"].is_null() { None } else { Some(self.number(self.config, "edge")? as f32) };
        let before = self.reader.version() < 3;
        let number = |name, earlier: f32| {
            if before { Ok(earlier) } else { self.number(self.config, name).map(|value| value as f32) }
        };
        let Candidate { voters, pull, .. } = Candidate::PLAIN;
        let width = number("width", voters.width)?;
        let neighbors = number("neighbors", voters.neighbors as f32)? as usize;
        let candidate = Candidate {
            edge,
            pull: number("pull", pull)?,
            voters: Voters { neighbors, width },
            memory: self.number(self.config, "memory")? as f32,
            cold: self.number(self.config, "cold")? as f32,
            centroid: self.number(self.config, "centroid")? as f32,
            smooth: self.number(self.config, "smooth")? as f32,
        };
        let share = |share: f32| (0.0..=1.0).contains(&share);
        let shares = edge.is_none_or(share) && share(candidate.centroid) && candidate.memory >= 0.0;
        let shares = shares && (1..=MOST).contains(&neighbors) && width > 0.0 && candidate.pull.is_finite();
        if shares && [candidate.memory, candidate.cold, candidate.smooth].iter().all(|v| v.is_finite()) {
            return Ok(candidate);
        }
        Err(self.reader.damaged("config: impossible weights"))
    }

    fn models(&self, dim: usize) -> Result<Models> {
        let matrix = |name| self.floats(name, dim * dim);
        let edges = Edges {
            map: matrix("edge_map")?,
            gate: self.number(self.config, "gate")? as f32,
            shrink: self.number(self.config, "shrink")? as f32,
        };
        let edge = Model { adapter: matrix("edge_adapter")?, edges: Some(edges) };
        Ok(Models { edge, adapter: Model { adapter: matrix("adapter")?, edges: None } })
    }

    fn clicks(&self, dim: usize) -> Result<Clicks> {
        let rows: Vec<u32> = self.reader.values("clicked_rows")?;
        if rows.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(self.reader.damaged("section \"clicked_rows\" does not rise"));
        }
        let (sums, counts) =
            (self.floats("click_sums", rows.len() * dim)?, self.floats("click_counts", rows.len())?);
        Ok(Clicks::from_parts(dim, rows, sums, counts))
    }

    fn log(&self, dim: usize) -> Result<Log> {
        let indptr: Vec<u64> = self.reader.values("past_indptr")?;
        let rows: Vec<u32> = self.reader.values("past_rows")?;
        let queries = self.floats("past_queries", indptr.len().saturating_sub(1).saturating_mul(dim))?;
        let grades = self.floats("past_grades", rows.len())?;
        let rising = indptr.windows(2).all(|pair| pair[0] < pair[1]);
        if indptr.first() != Some(&0) || indptr.last() != Some(&(rows.len() as u64)) || !rising {
            return Err(self
                .reader
                .damaged("section \"past_indptr\" does not rise from 0 to the number of clicks"));
        }
        let mut clicks = memory::with_capacity(rows.len());
        for (query, pair) in indptr.windows(2).enumerate() {
            let range = pair[0] as usize..pair[1] as usize;
            clicks.extend(range.map(|at| (query as u32, rows[at], grades[at])));
        }
        Log::new(&queries, dim, clicks).map_err(|how| self.reader.damaged(how))
    }

    fn table(&self, name: &str, rows: usize, dim: usize) -> Result<Table> {
        let few = format!("{name}_few");
        if self.reader.has(&few) {
            return Ok(Table::Few(self.floats(&few, rows * dim)?));
        }
        let index = HnswIndex::from_bytes(self.reader.section(&format!("{name}_many"))?)?;
        if index.len() != rows || index.dim() != dim {
            return Err(self.reader.damaged(format!("the table of {name} rows does not fit")));
        }
        Ok(Table::Many(Box::new(index)))
    }

    fn report(&self) -> Result<Report> {
        let report = &self.config["report"];
        let number = |name: &str| self.number(report, name);
        let figures: Vec<f64> = self.reader.values("report")?;
        let names: Vec<&str> =
            report["families"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let before = self.reader.version() < 3;
        let head = if before { FIGURES_BEFORE_3 } else { FIGURES };
        if figures.len() != head + 3 * names.len() {
            return Err(self.reader.damaged(format!("section \"report\": {} figures", figures.len())));
        }
        let rows = names.iter().zip(figures[head..].chunks_exact(3));
        let families =
            rows.map(|(name, row)| (name.to_string(), row[0], Estimate { mean: row[1], error: row[2] }));
        Ok(Report {
            queries: number("queries")? as usize,
            held_back: number("held_back")? as usize,
            steps: number("steps")? as usize,
            plain: figures[0],
            learned: figures[1],
            gain: Estimate { mean: figures[2], error: figures[3] },
            plain_cold: figures[4],
            learned_cold: figures[5],
            tried: if before { 0 } else { number("tried")? as usize },
            familiar: match before {
                true => (Estimate::default(), 0),
                false => (Estimate { mean: figures[6], error: figures[7] }, number("familiar")? as usize),
            },
            agreement: if before { f64::NAN } else { figures[8] },
            refused: report["refused"].as_str().unwrap_or_default().to_owned(),
            chosen: report["chosen"].as_str().unwrap_or_default().to_owned(),
            promoted: report["promoted"].as_bool().unwrap_or(false),
            families: families.collect(),
        })
    }
}
