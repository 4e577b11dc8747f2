//! Times of tasks in turns: a drift of the machine hits all of them, so their quotients hold where their times don't.

use std::time::Instant;

/// A name, and what is timed.
pub type Task<'a> = (&'a str, &'a mut dyn FnMut());

/// Runs the tasks in turns and prints each one's median time and its quotient by that of the task before it that `over`
/// names, and by none for the first. Passes by a title that holds none of the command's words.
pub fn in_turns(title: &str, rounds: usize, over: &[usize], tasks: &mut [Task<'_>]) {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    if words.peek().is_some() && !words.any(|word| title.contains(&word)) {
        return;
    }
    tasks.iter_mut().for_each(|(_, run)| run());
    let mut times = vec![Vec::with_capacity(rounds); tasks.len()];
    for _ in 0..rounds {
        for ((_, run), times) in tasks.iter_mut().zip(&mut times) {
            let begin = Instant::now();
            run();
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
    }
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    println!("{title}");
    for (at, (name, _)) in tasks.iter().enumerate() {
        let quotient = at.checked_sub(1).map(|before| medians[at] / medians[over[before]]);
        let quotient = quotient.map_or(String::new(), |quotient| format!("{quotient:8.2}"));
        println!("    {name:20} {:9.2} ms{quotient}", medians[at]);
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
