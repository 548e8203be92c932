"""Finished runs in one form: a tidy table of runs, one of curves, and the cells of a spec; alike from run folders and from evidence.

::

    source = open_source(Path("runs"), scale)     # reading.evidence: evidence where there is <folder>/<scale>/sha256.json, else run folders
    results = read_results(spec, scale, source)   # reading.results; checks that the plan is of this spec as it stands now

    results.cells                 # Cell: row, column, label, run_ids, repeats ({"seed": 0}), skip, value, untuned, at_end
    results.runs                  # DataFrame by run_id, a row for each run that a cell names, done or not (reading.runs): state, problem,
                                  # place, ended, git_sha, torch, device, machine, wall_s, ..., every setting (dataset.name), every result
                                  # (test/accuracy@last); Python's own values, None where a run has no such value, NaN: it diverged
    results.done(cell)            # ids of its runs that are done
    results.values(cell, "test/accuracy", "best_val")    # a value a run of the cell; None: not done, or not measured
    results.curves                # DataFrame run_id, metric, epoch, value of the done runs; epoch 0 is the untrained model
    source.labels(run_id)         # recorded labels (repro.labels.trajectory); None where there are none, as in evidence
    source.record(run_id)         # the JSON that the table of runs is made of: status, fields, final, cost, provenance

Of labels, evidence keeps what figures draw: ``analysis.figures.labels.drawn_of(results)`` returns it when evidence is written, as
run_id -> JSON (names of classes, chosen labels and images, by panel), for the runs that it has something of. When the page is made from
evidence, ``source.record(run_id)["drawn"][spec.name]`` has it.

Pages are made with ``analysis.tables.page``.
"""
