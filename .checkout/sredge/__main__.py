from sredge.cli import sredge

sredge()
