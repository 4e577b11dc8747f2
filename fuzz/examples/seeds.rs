//! Writes the seeds: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.

use ruvector_gnn_fuzz::{index, layer, weights};
use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in [
        ("index_reader", index::seeds()),
        ("weights_reader", weights::seeds()),
        ("json_reader", layer::seeds()),
    ] {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder)?;
        for (name, bytes) in &seeds {
            std::fs::write(folder.join(name), bytes)?;
        }
        println!("{}: {} seeds", folder.display(), seeds.len());
    }
    Ok(())
}
