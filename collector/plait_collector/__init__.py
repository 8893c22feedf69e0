"""The collector: it takes the streams of all agents, keeps them, and answers what runs say."""
