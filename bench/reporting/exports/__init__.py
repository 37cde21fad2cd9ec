"""The leaderboard in the formats of others: spreadsheets, papers, the Hugging Face hub, FiftyOne."""
